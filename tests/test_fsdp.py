"""What of a model, or of accelerate's settings, can't be sharded is said before accelerate tries."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from aws_lottery import HeldMask, SignedMask, WinningSignCallback
from aws_lottery.fsdp import check_shardable


def state(**options):
    return SimpleNamespace(is_fsdp2=True, fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2, **options))


def vit() -> nn.Module:
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 8}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=4, patch_size=2))


def llama() -> nn.Module:
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 8}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=16))


BY_CLASS = {"auto_wrap_policy": "transformer_based_wrap"}


def test_buffers_are_refused_where_the_first_process_is_to_hand_everything_over():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    check_shardable(model, state())
    check_shardable(model[0], state(cpu_ram_efficient_loading=True))
    with pytest.raises(ValueError, match=r"this Sequential has '1.running_mean'; set it to false"):
        check_shardable(model, state(cpu_ram_efficient_loading=True))


def test_lists_of_layers_are_refused_above_the_size_with_the_option_that_names_the_layers():
    by_size = {"auto_wrap_policy": "size_based_wrap"}
    check_shardable(llama(), state(**by_size, min_num_params=10_000))
    expected = r"'model.layers', a ModuleList of .* TRANSFORMER_BASED_WRAP .*layer_cls_to_wrap LlamaDecoderLayer$"
    with pytest.raises(ValueError, match=expected):
        check_shardable(llama(), state(**by_size, min_num_params=100))


def test_a_policy_by_size_needs_the_size_where_accelerate_looks_for_it():
    by_size = partial(size_based_auto_wrap_policy, min_num_params=5)
    check_shardable(nn.Linear(2, 2), state(auto_wrap_policy=by_size, min_num_params=5))
    with pytest.raises(ValueError, match=r"Plugin\(min_num_params=\) alone, .* it is None; give it there"):
        check_shardable(nn.Linear(2, 2), state(auto_wrap_policy=by_size))


def test_a_class_around_the_input_embedding_is_refused_with_the_option_that_names_the_others():
    check_shardable(llama(), state(**BY_CLASS))
    check_shardable(vit(), state(**BY_CLASS, transformer_cls_names_to_wrap=["ViTLayer"]))
    with pytest.raises(ValueError, match=r"'vit.embeddings' and the input .*cls_to_wrap ViTLayer$"):
        check_shardable(vit(), state(**BY_CLASS))


def test_a_model_without_an_input_embedding_is_looked_at_like_others():
    sizes = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1], "layer_type": "basic"}
    model = ResNetForImageClassification(ResNetConfig(**sizes))
    check_shardable(model, state(**BY_CLASS, cpu_ram_efficient_loading=False))
    with pytest.raises(ValueError, match=r"a ModuleList of .*layer_cls_to_wrap ResNetConvLayer,ResNetShortCut$"):
        check_shardable(
            model, state(auto_wrap_policy="size_based_wrap", min_num_params=1, cpu_ram_efficient_loading=False)
        )


@pytest.mark.parametrize(("version", "refused"), [("2.11.0", True), ("2.12.1+cpu", True), ("2.13.0", False)])
def test_offload_to_pinned_memory_is_refused_with_a_torch_that_shows_hooks_stale_gradients(
    version, refused, monkeypatch
):
    monkeypatch.setattr(torch, "__version__", version)
    check_shardable(llama(), state(cpu_offload=CPUOffloadPolicy(pin_memory=False)))
    if refused:
        with pytest.raises(ValueError, match=f"torch {version.replace('+', '.')} may show gradients.*pin_memory=False"):
            check_shardable(llama(), state(cpu_offload=True))
    else:
        check_shardable(llama(), state(cpu_offload=True))


@pytest.mark.parametrize("callback", [WinningSignCallback(), HeldMask(SignedMask({"a": torch.ones(1).to(torch.int8)}))])
def test_a_trainer_is_told_when_it_is_made(callback, monkeypatch, tmp_path):
    module = callback.__module__
    monkeypatch.setattr(f"{module}.AcceleratorState", lambda: state(**BY_CLASS))
    arguments = TrainingArguments(str(tmp_path), num_train_epochs=100, lr_scheduler_type="constant", use_cpu=True)
    with pytest.raises(ValueError, match="cls_to_wrap ViTLayer"):
        callback.on_init_end(arguments, None, None, model=vit())
