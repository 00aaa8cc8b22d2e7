"""What docs/partition.md says of networks of transformers, torch and peft, on networks of a few hundred weights."""

import logging

import pytest
import torch
import transformers
from torch import nn
from torch.nn.utils import parametrizations

from aws_lottery import AWSPruner, SignedMaskConfig
from aws_lottery.parameters.partition import partition

transformers.logging.set_verbosity_error()

ENCODER = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
LLM = {**ENCODER, "num_key_value_heads": 2, "vocab_size": 20}
IMAGES = {"image_size": 8, "patch_size": 4, "num_labels": 3}


def sort(model, **config):
    return partition(model, SignedMaskConfig(**config))


def spared(parts, reason):
    """What is not pruned for this reason, without what all networks have: vectors."""
    return [part.name for part in parts.parts if part.spared == reason]


def test_vit_prunes_patches_and_blocks_but_no_tokens():
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**ENCODER, **IMAGES))
    parts = sort(model)
    assert len(parts.prunable) == 7  # patches, query, key, value, output, two of the perceptron
    assert all("layer" in name or "patch" in name for name in parts.prunable)
    assert spared(parts, "token") == ["vit.embeddings.position_embeddings"]
    assert "vit.embeddings.cls_token" in spared(parts, "vector")
    assert (parts.classifier, parts.doubt, parts.unknown) == ("classifier", None, ())


def test_convnext_prunes_depthwise_and_pointwise_layers_but_no_layer_scales():
    config = transformers.ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 1], num_stages=2, num_labels=3)
    parts = sort(transformers.ConvNextForImageClassification(config))
    assert len(parts.prunable) == 8  # stem, downsampling, and 3 in each of two blocks
    assert len([name for name in spared(parts, "vector") if "layer_scale" in name]) == 2
    assert (parts.classifier, parts.doubt, parts.unknown) == ("classifier", None, ())


def test_resnet_prunes_all_convolutions():
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic", "num_labels": 3}
    parts = sort(transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes)))
    assert len(parts.prunable) == 6  # the stem, two in each block, and a shortcut
    assert all(name.endswith("convolution.weight") for name in parts.prunable)
    assert parts.signed_only == ("classifier.1.weight", "classifier.1.bias")
    assert (parts.classifier, parts.doubt, parts.unknown) == ("classifier.1", None, ())


def test_bert_with_a_head_prunes_its_blocks_and_pooler_but_no_embeddings():
    config = transformers.BertConfig(**ENCODER, vocab_size=20, num_labels=3)
    parts = sort(transformers.BertForSequenceClassification(config))
    assert len(parts.prunable) == 7  # the pooler's is one
    assert len(spared(parts, "embedding")) == 3  # words, positions, types
    assert (parts.classifier, parts.doubt, parts.unknown) == ("classifier", None, ())


def test_bert_without_a_head_is_a_guess_and_warns(caplog):
    config = transformers.BertConfig(**ENCODER, vocab_size=20)
    AWSPruner(transformers.BertModel(config, add_pooling_layer=False))
    assert "'encoder.layer.0.output.dense' is taken for the classifier" in caplog.text
    assert "BertModel has no head of its own" in caplog.text


def test_gpt2_ties_its_head_to_its_words_and_spares_both(caplog):
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=20, n_positions=8)
    with caplog.at_level(logging.INFO):
        pruner = AWSPruner(
            transformers.GPT2LMHeadModel(config), SignedMaskConfig(prunable=("linear", "embedding"), rounds=1)
        )
    parts = pruner.partition
    assert [name.removeprefix("transformer.") for name in parts.prunable] == [
        "wpe.weight",
        "h.0.attn.c_attn.weight",
        "h.0.attn.c_proj.weight",
        "h.0.mlp.c_fc.weight",
        "h.0.mlp.c_proj.weight",
    ]
    assert spared(parts, "classifier") == ["transformer.wte.weight"]
    assert "'lm_head (tied: transformer.wte.weight)' is the classifier: it gets signs and is not pruned" in caplog.text


def test_llama_prunes_its_projections_but_no_words_and_no_head():
    parts = sort(transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLM)))
    assert len(parts.prunable) == 7
    assert all(name.endswith("_proj.weight") for name in parts.prunable)
    assert spared(parts, "classifier") == ["lm_head.weight"]
    assert spared(parts, "embedding") == ["model.embed_tokens.weight"]
    assert len(parts.psi) == 3


@pytest.mark.parametrize(
    ("model", "config", "routers"),
    [
        ("MixtralForCausalLM", {"num_local_experts": 2}, ["gate"]),
        (
            "Qwen2MoeForCausalLM",
            {"num_experts": 2, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8},
            ["gate", "shared_expert_gate"],
        ),
    ],
)
def test_mixtures_prune_experts_of_three_dimensions_but_no_routers(model, config, routers):
    model = getattr(transformers, model)
    parts = sort(model(model.config_class(**LLM, **config)))
    experts = ["model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"]
    assert [name for name in parts.prunable if ".experts." in name] == experts
    assert spared(parts, "router") == [f"model.layers.0.mlp.{name}.weight" for name in routers]
    assert parts.unknown == ()


def test_a_search_prunes_experts_like_other_weights():
    config = transformers.MixtralConfig(**LLM, num_local_experts=2)
    model = transformers.MixtralForCausalLM(config)
    pruner = AWSPruner(model, SignedMaskConfig(rounds=1, prune_rate=0.5))
    for _ in pruner.rounds():
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        tokens = torch.arange(12).view(2, 6)
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    assert pruner.remaining == 0.5
    assert pruner.signed_mask()["model.layers.0.mlp.experts.down_proj"].shape == (2, 8, 16)


def test_attention_of_torch_is_pruned_by_its_joint_projection():
    parts = sort(nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2, add_bias_kv=True), "head": nn.Linear(4, 2)}))
    assert parts.prunable == ("attention.in_proj_weight", "attention.out_proj.weight")
    assert parts.unknown == ()


def test_weight_norm_is_unknown_unless_included():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4), nn.Linear(4, 2))
    v = "0.parametrizations.weight.original1"
    assert sort(model).unknown == (v,)
    assert sort(model, include=(v,)).prunable == (v, "1.weight")


def test_lora_spares_adapters_and_the_frozen_base():
    peft = pytest.importorskip("peft")
    base = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["0"], r=2))
    with pytest.raises(ValueError, match=r"without 2 that are frozen \(prune_frozen=True prunes them\)"):
        sort(model)
    parts = sort(model, prune_frozen=True)
    assert parts.prunable == ("base_model.model.0.base_layer.weight", "base_model.model.1.weight")
    assert len(spared(parts, "adapter")) == 2


def test_lora_around_held_layers_stops_the_next_step():
    peft = pytest.importorskip("peft")
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    AWSPruner(model)
    model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["0"], r=2))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model(torch.randn(2, 4)).sum().backward()
    with pytest.raises(RuntimeError, match=r"'0\.weight' is '0\.base_layer\.weight' now"):
        optimizer.step()
