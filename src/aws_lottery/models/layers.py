"""What the convolutional networks share: convolution + BatchNorm, and torchvision's initialization."""

from collections.abc import Callable

from torch import nn


def conv_norm(
    channels_in: int,
    channels: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    activation: Callable[[], nn.Module] | None = None,
) -> nn.Sequential:
    """Convolution that divides the size by `stride` (rounded up), BatchNorm, and `activation` if there is one."""
    layers = [
        nn.Conv2d(channels_in, channels, kernel, stride, padding=kernel // 2, groups=groups, bias=bias),
        nn.BatchNorm2d(channels),
    ]
    return nn.Sequential(*layers, *([activation()] if activation else []))


def he_init_(model: nn.Module, *, linear_std: float | None = None) -> None:
    """Convolutions from N(0, 2 / fan_out) (He et al., 2015; torchvision's convention), their biases 0.

    Everything else stays as torch makes it: BatchNorm (1, 0), linear layers U(-1, 1) / sqrt(fan_in). Which network has
    which initialization, and from where: docs/notes/initialization.md.

    Args:
        model: initialized in place.
        linear_std: linear layers from N(0, linear_std^2), their biases 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, std=linear_std)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
