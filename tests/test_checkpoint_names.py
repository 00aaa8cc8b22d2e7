"""A mask fits the same network under the names of another version of transformers, and of timm and torchvision."""

import logging
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from aws_lottery import SignedMask, SignedMaskConfig, create_model
from aws_lottery.parameters.checkpoint_names import checkpoint_names
from aws_lottery.parameters.matching import match

SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12, "image_size": 8}


def vit() -> ViTForImageClassification:
    return ViTForImageClassification(ViTConfig(**SIZES, patch_size=4, num_labels=3))


@pytest.fixture
def sparse(tmp_path):
    """A trained sparse ViT, and the folder of its checkpoint, whose names are those of transformers 4."""
    model = vit()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
        for name, parameter in model.named_parameters():
            if "q_proj.weight" in name:
                parameter[:4] = 0
    model.save_pretrained(tmp_path)
    return model, tmp_path


def in_version_4(folder) -> nn.Module:
    """A module whose parameters have the names of the checkpoint, in its order of layers."""
    root = nn.Module()
    for name, tensor in load_file(folder / "model.safetensors").items():
        *path, leaf = name.split(".")
        owner = root
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.LayerNorm(1) if "layernorm" in part else nn.Linear(1, 1))
                owner._modules[part]._parameters.clear()
            owner = owner._modules[part]
        owner.register_parameter(leaf, nn.Parameter(torch.randn_like(tensor)))
    return root


def test_names_in_checkpoints_are_those_that_transformers_writes(sparse):
    model, folder = sparse
    names = checkpoint_names(model)
    assert names["vit.layers.1.attention.q_proj.weight"] == "vit.encoder.layer.1.attention.attention.query.weight"
    assert {names.get(name, name) for name, _ in model.named_parameters()} == set(
        load_file(folder / "model.safetensors")
    )
    assert checkpoint_names(nn.Sequential(model))["0.vit.layers.0.mlp.fc1.bias"] == (
        "0.vit.encoder.layer.0.intermediate.dense.bias"
    )
    assert checkpoint_names(nn.Linear(2, 2)) == {}


def test_a_mask_of_version_4_fits_version_5_as_transformers_loads_it(sparse, caplog):
    caplog.set_level(logging.INFO)
    _, folder = sparse
    old = in_version_4(folder)
    old.load_state_dict(load_file(folder / "model.safetensors"))
    mask = SignedMask.from_model(old, SignedMaskConfig(classifier="classifier"))
    assert "vit.encoder.layer.0.attention.attention.query.weight" in mask
    fresh, expected = vit(), ViTForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.normal_()  # fresh biases are 0, which has no sign
    mask.apply_(fresh)
    for name, value in SignedMask.from_model(expected).items():
        assert torch.equal(fresh.get_parameter(name).sign().to(torch.int8), value), name
    assert "matched by those in checkpoints" in caplog.text
    with mask.held(fresh) as hold:
        assert not hold.masks["vit.layers.0.attention.q_proj.weight"][:4].any()


def test_a_mask_of_version_5_fits_version_4_from_a_file_too(sparse):
    model, folder = sparse
    SignedMask.from_model(model).save_pretrained(folder / "mask")
    mask = SignedMask.from_pretrained(folder / "mask")
    old, expected = in_version_4(folder), load_file(folder / "model.safetensors")
    mask.apply_(old)
    assert mask.checkpoint_names
    for name in mask:
        place = mask.checkpoint_names.get(name, name)
        assert torch.equal(old.get_parameter(place).sign(), expected[place].sign()), place
    binary = in_version_4(folder)
    mask.binary().apply_(binary)
    assert not binary.get_parameter("vit.encoder.layer.1.attention.attention.query.weight")[:4].any()


def test_names_in_checkpoints_are_names_of_the_mask():
    with pytest.raises(ValueError, match=r"checkpoint_names \['b'\] are not in the mask"):
        SignedMask({"a": torch.ones(2, dtype=torch.int8)}, checkpoint_names={"b": "c"})


# ResNet-50


def torchvision_resnet50() -> Iterator[tuple[str, tuple[int, ...]]]:
    """What torchvision 0.28 and timm 1.0 call the parameters outside normalization, in their order."""
    yield "conv1.weight", (64, 3, 7, 7)
    inputs = 64
    for stage, (depth, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 1):
        for block in range(depth):
            name = f"layer{stage}.{block}"
            yield f"{name}.conv1.weight", (width, inputs, 1, 1)
            yield f"{name}.conv2.weight", (width, width, 3, 3)
            yield f"{name}.conv3.weight", (4 * width, width, 1, 1)
            if block == 0:
                yield f"{name}.downsample.0.weight", (4 * width, inputs, 1, 1)
            inputs = 4 * width
    yield "fc.weight", (1000, 2048)
    yield "fc.bias", (1000,)


def in_transformers(name: str) -> str:
    """Of torchvision's or timm's ResNet -> of transformers' (docs/hub.md)."""
    if name.startswith("fc"):
        return name.replace("fc", "classifier.1")
    if name == "conv1.weight":
        return "resnet.embedder.embedder.convolution.weight"
    stage, block, layer, *_ = name.removeprefix("layer").split(".")
    place = "shortcut" if layer == "downsample" else f"layer.{int(layer[-1]) - 1}"
    return f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}.{place}.convolution.weight"


def test_our_resnet50_and_those_of_torchvision_and_timm_match_by_order(caplog):
    with torch.device("meta"):
        model = create_model("resnet50", 1000, image_size=224)
    ours = {
        name: tuple(p.shape) for name, p in model.named_parameters() if p.dim() > 1 or name.startswith("classifier")
    }
    theirs = dict(torchvision_resnet50())
    pairs = match(ours, theirs, required=list(theirs))
    assert pairs["blocks.3.residual.2.0.weight"] == "layer2.0.conv3.weight"
    assert pairs["blocks.3.shortcut.0.weight"] == "layer2.0.downsample.0.weight"
    assert match(theirs, ours, required=list(ours)) == {place: name for name, place in pairs.items()}
    assert caplog.text.count("paired with parameters of the model in order") == 2


def test_the_resnet50_of_transformers_has_another_order_and_takes_a_map():
    from transformers import ResNetConfig, ResNetForImageClassification

    with torch.device("meta"):
        model = ResNetForImageClassification(ResNetConfig(num_labels=1000, depths=[3, 4, 6, 3]))
    ours = {n: tuple(p.shape) for n, p in model.named_parameters() if p.dim() > 1 or n.startswith("classifier")}
    theirs = dict(torchvision_resnet50())
    with pytest.raises(ValueError, match="parameters differ"):
        match(theirs, ours, required=list(ours))
    pairs = match(theirs, ours, required=list(ours), names=in_transformers)
    assert pairs["layer1.0.downsample.0.weight"] == "resnet.encoder.stages.0.layers.0.shortcut.convolution.weight"
