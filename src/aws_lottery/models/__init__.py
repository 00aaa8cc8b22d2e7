"""The networks of the paper, and any image classifier of transformers, by name: `create_model`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from ..config import PROTOCOLS
from ..random_states import torch_aside
from .cifar_resnet import CifarResNet
from .efficientnet import EfficientNetB0
from .mlp_mixer import MLPMixer
from .mobilenet import MobileNetV2
from .resnet import ResNet
from .shufflenet import ShuffleNet
from .vgg import VGG11

SMALL_IMAGE = 64  # pixels; images up to this size get the small-image form


@dataclass(frozen=True)
class Architecture:
    """How a network is built."""

    build: Callable[..., nn.Module]  # (num_classes, **options)
    sized_by: Literal["small_image", "image_size"] | None = "small_image"  # the option of `build` that takes the size
    unused_layers: Mapping[str, Any] = field(default_factory=dict)  # options that build what the authors' never uses


ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": Architecture(partial(ResNet, 18)),
    "resnet8": Architecture(partial(CifarResNet, 8), sized_by=None),
    "resnet20": Architecture(partial(CifarResNet, 20), sized_by=None),
    "resnet32": Architecture(partial(CifarResNet, 32), sized_by=None),
    "resnet50": Architecture(partial(ResNet, 50)),
    "mobilenetv2": Architecture(MobileNetV2),
    "shufflenet": Architecture(ShuffleNet),
    "efficientnet_b0": Architecture(EfficientNetB0, unused_layers={"unused_expansion": True}),
    "vgg11_bn": Architecture(VGG11),
    "mlp_mixer": Architecture(MLPMixer, sized_by="image_size"),
}


def create_model(
    name: str, num_classes: int, *, image_size: int = 224, small_image: bool | None = None, **options: Any
) -> nn.Module:
    """A freshly initialized network for `pixel_values` (batch, 3, image_size, image_size). Nothing is downloaded.

    Args:
        name: a row of ARCHITECTURES, whose networks return logits (batch, num_classes); or "hf:" and a model type of
            transformers ("hf:vit", "hf:convnext", ...) for an image classifier of theirs, which returns `.logits`.
        num_classes: labels are 0 to num_classes - 1.
        image_size: pixels a side.
        small_image: build the form for small images (3x3 stem of stride 1, no max-pool) rather than that for ImageNet;
            None: if image_size <= SMALL_IMAGE. Only for networks that have both forms.
        options: what else the network's class takes (`dropout`, `groups`, `patch_size`, ...); after "hf:", fields of
            its configuration (`hidden_size`, `patch_size`, ...).

    Returns:
        The network, in training mode, on the CPU.

    Raises:
        ValueError: For an unknown name, a size below 1, or `small_image` where there are no two forms.

    Example:
        >>> import torch
        >>> from aws_lottery import create_model
        >>> create_model("resnet20", 100, image_size=32)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 100])
    """
    for argument, value in (("num_classes", num_classes), ("image_size", image_size)):
        if value < 1:
            raise ValueError(f"{argument} must be 1 or more, got {value}")
    row = _architecture(name)
    if small_image is not None and row.sized_by != "small_image":
        raise ValueError(f"{name} has one form only: leave out small_image={small_image}")
    if row.sized_by == "small_image":
        options["small_image"] = image_size <= SMALL_IMAGE if small_image is None else small_image
    elif row.sized_by == "image_size":
        options["image_size"] = image_size
    return row.build(num_classes, **options)


def fresh_network(
    name: str, num_classes: int, seed: int, *, image_size: int = 224, channels_last: bool = False, **options: Any
) -> nn.Module:
    """`create_model`, its initialization drawn from `seed` alone; torch's random state stays as it is."""
    with torch_aside():
        torch.manual_seed(seed)
        model = create_model(name, num_classes, image_size=image_size, **options)
    if channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  torch's overloads lack it
    return model


def options_under(name: str, protocol: str) -> dict[str, Any]:
    """The options of `create_model` that a network has under a protocol, most often none.

    Args:
        name: of the network.
        protocol: a row of PROTOCOLS.

    Returns:
        name -> value.

    Raises:
        ValueError: For an unknown network.
        KeyError: For an unknown protocol.
    """
    return dict(_architecture(name).unused_layers) if PROTOCOLS[protocol].unused_layers else {}


def model_code(name: str, num_classes: int, image_size: int, **options: Any) -> str:
    """Python that makes a fresh network, for a mask's card."""
    more = "".join(f", {option}={value!r}" for option, value in options.items())
    call = f'create_model("{name}", {num_classes}, image_size={image_size}{more})'
    return f"from aws_lottery import create_model\n\nmodel = {call}"


def _architecture(name: str) -> Architecture:
    if name.startswith("hf:"):
        return Architecture(partial(_from_transformers, name.removeprefix("hf:")), sized_by="image_size")
    if name not in ARCHITECTURES:
        near = get_close_matches(name, ARCHITECTURES, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ValueError(f"unknown network '{name}': {hint}there are {', '.join(ARCHITECTURES)} and 'hf:<model type>'")
    return ARCHITECTURES[name]


def _from_transformers(model_type: str, num_classes: int, **fields: Any) -> nn.Module:
    from transformers import AutoConfig, AutoModelForImageClassification  # slow to import

    config = AutoConfig.for_model(model_type, num_labels=num_classes, **fields)
    return AutoModelForImageClassification.from_config(config)
