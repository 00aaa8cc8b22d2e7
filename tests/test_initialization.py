"""Every weight of a fresh network against the formula of its source (docs/notes/initialization.md has the sources)."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from aws_lottery.models import ARCHITECTURES, create_model, fresh_network
from aws_lottery.parameters.partition import is_norm

ENOUGH = 1000  # entries; the standard deviation of a sample of so many is within 10 % of the true one, at 4.5 sigma


class Kind(NamedTuple):
    """What a kind of layer starts from; fan_in and fan_out as torch counts them, grouped convolutions included."""

    std: str  # a key of STD
    bias_is_zero: bool = False


STD = {
    "torch": lambda fan_in, fan_out: 1 / math.sqrt(3 * fan_in),  # U(-1, 1) / sqrt(fan_in)
    "fan_out": lambda fan_in, fan_out: math.sqrt(2 / fan_out),
    "fan_in": lambda fan_in, fan_out: math.sqrt(2 / fan_in),
    "uniform, fan_out": lambda fan_in, fan_out: 1 / math.sqrt(3 * fan_out),  # U(-1, 1) / sqrt(fan_out)
    "0.01": lambda fan_in, fan_out: 0.01,
}
TORCH = Kind("torch")
NO_BIAS_FAN_OUT, NO_BIAS_FAN_IN = Kind("fan_out"), Kind("fan_in")
SMALL, IMAGENET = 32, 224
FACTS = {  # (network, image size): the stem, other convolutions, linear layers
    ("resnet8", SMALL): (NO_BIAS_FAN_OUT, NO_BIAS_FAN_OUT, TORCH),
    ("resnet20", SMALL): (NO_BIAS_FAN_OUT, NO_BIAS_FAN_OUT, TORCH),
    ("resnet32", SMALL): (NO_BIAS_FAN_OUT, NO_BIAS_FAN_OUT, TORCH),
    ("resnet18", SMALL): (TORCH, NO_BIAS_FAN_OUT, TORCH),
    ("resnet50", SMALL): (TORCH, NO_BIAS_FAN_OUT, TORCH),
    ("mobilenetv2", SMALL): (TORCH, TORCH, TORCH),
    ("shufflenet", SMALL): (TORCH, TORCH, TORCH),
    ("efficientnet_b0", SMALL): (TORCH, TORCH, TORCH),
    ("vgg11_bn", SMALL): (TORCH, TORCH, TORCH),
    ("resnet18", IMAGENET): (NO_BIAS_FAN_OUT, NO_BIAS_FAN_OUT, TORCH),
    ("resnet50", IMAGENET): (NO_BIAS_FAN_OUT, NO_BIAS_FAN_OUT, TORCH),
    ("mobilenetv2", IMAGENET): (NO_BIAS_FAN_OUT, NO_BIAS_FAN_OUT, Kind("0.01", bias_is_zero=True)),
    ("shufflenet", IMAGENET): (NO_BIAS_FAN_IN, NO_BIAS_FAN_IN, TORCH),
    ("efficientnet_b0", IMAGENET): (
        NO_BIAS_FAN_OUT,
        Kind("fan_out", bias_is_zero=True),  # squeeze-excite has biases
        Kind("uniform, fan_out", bias_is_zero=True),
    ),
    ("vgg11_bn", IMAGENET): (
        Kind("fan_out", bias_is_zero=True),
        Kind("fan_out", bias_is_zero=True),
        Kind("0.01", bias_is_zero=True),
    ),
    ("mlp_mixer", IMAGENET): (TORCH, TORCH, TORCH),
}


def kinds(model: nn.Module, stem: Kind, convolution: Kind, linear: Kind) -> dict[str, Kind]:
    """Module -> what it starts from."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    first = layers[0][0]
    return {
        name: linear if isinstance(module, nn.Linear) else stem if name == first else convolution
        for name, module in layers
    }


def expected_std(kind: Kind, weight: Tensor) -> float:
    fan_in, per_output = weight[0].numel(), weight[0, 0].numel()
    return STD[kind.std](fan_in, weight.shape[0] * per_output)


def drawn(name: str, size: int) -> list[nn.Module]:
    """As many fresh networks as it takes for ENOUGH entries of the smallest weight, all draws together."""
    first = fresh_network(name, 10, seed=0, image_size=size)
    smallest = min(p.numel() for p in first.parameters() if p.dim() > 1)
    return [first, *(fresh_network(name, 10, seed, image_size=size) for seed in range(1, math.ceil(ENOUGH / smallest)))]


def test_the_table_has_every_network_in_each_of_its_forms():
    assert {name for name, _ in FACTS} == set(ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "size"),
    [pytest.param(*form, marks=pytest.mark.slow if form == ("vgg11_bn", IMAGENET) else ()) for form in FACTS],
)
def test_every_weight_starts_with_the_standard_deviation_of_its_source(name, size):
    models = drawn(name, size)
    for layer, kind in kinds(models[0], *FACTS[name, size]).items():
        modules = [model.get_submodule(layer) for model in models]
        sample = torch.cat([module.weight.detach().flatten() for module in modules])
        assert len(sample) >= ENOUGH
        assert sample.std().item() == pytest.approx(expected_std(kind, modules[0].weight), rel=0.1), layer
        assert abs(sample.mean().item()) < 0.2 * expected_std(kind, modules[0].weight), layer
        if (bias := modules[0].bias) is not None:
            assert bool((bias == 0).all()) == kind.bias_is_zero, layer


@pytest.mark.parametrize("name", ["resnet20", "resnet50", "mobilenetv2", "shufflenet", "efficientnet_b0", "vgg11_bn"])
def test_normalization_starts_as_the_identity(name):
    for norm in filter(is_norm, create_model(name, 4, image_size=32).modules()):
        assert bool((norm.weight == 1).all())
        assert bool((norm.bias == 0).all())


def test_a_depthwise_weight_for_small_images_is_as_large_as_torch_makes_it():
    weight = create_model("mobilenetv2", 10, image_size=32).blocks[3].residual[1][0].weight
    assert weight.shape == (144, 1, 3, 3)
    assert weight.std().item() == pytest.approx(0.192, rel=0.1)  # 1 / sqrt(27); by fan_out it would be 0.039
