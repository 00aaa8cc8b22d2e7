"""EfficientNet-B0 (Tan and Le, 2019), for ImageNet and for small images.

Own code, because transformers' EfficientNet fixes the stride of its stem and pads as TensorFlow does, and its BatchNorm
momentum of 0.99 (TensorFlow's meaning of the word) leaves statistics of about one batch.
"""

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .layers import conv_norm, he_init_

STAGES = (  # expansion, channels, blocks, kernel, stride
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate in (0, 1) computed from the means of all."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = nn.functional.silu(self.reduce(x.mean(dim=(2, 3), keepdim=True)))
        return x * torch.sigmoid(self.expand(squeezed))


class MBConv(nn.Module):
    """1x1 up, depthwise, squeeze-excite, 1x1 down; a shortcut where the stride is 1 and the channels stay.

    With expansion 1 there is no 1x1 up; `unused_expansion` makes one all the same, which no forward uses. It gets no
    gradient, so no optimizer moves it, as in the authors' code.
    """

    def __init__(
        self, channels_in: int, channels: int, expansion: int, kernel: int, stride: int, unused_expansion: bool = False
    ):
        super().__init__()
        hidden = channels_in * expansion
        if expansion == 1 and unused_expansion:
            self.unused = conv_norm(channels_in, hidden)
        self.residual = nn.Sequential(
            *([conv_norm(channels_in, hidden, activation=nn.SiLU)] if expansion > 1 else []),
            conv_norm(hidden, hidden, kernel, stride=stride, groups=hidden, activation=nn.SiLU),
            SqueezeExcite(hidden, channels_in // 4),
            conv_norm(hidden, channels),
        )
        self.adds = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x) if self.adds else self.residual(x)


class EfficientNetB0(nn.Module):
    """Images (batch, 3, height, width) -> logits (batch, num_classes).

    `small_image` is the usual CIFAR form, the authors' too: a stem of stride 1 and no 1x1 convolution to 1280 channels
    before the classifier. No stochastic depth: the authors' code has a rate for it that is always 0.
    `unused_expansion`: the first block has the 1x1 convolution and its BatchNorm that the authors' code makes there and
    never uses; its weights may be pruned like all others (docs/notes/protocols.md).

    Initialization: the small-image form has torch's default throughout, as the authors' own; that for ImageNet is
    torchvision's: convolutions N(0, 2 / fan_out), the classifier U(-1, 1) / sqrt(num_classes), all their biases 0.
    """

    def __init__(
        self, num_classes: int, *, small_image: bool = False, dropout: float = 0.2, unused_expansion: bool = False
    ):
        super().__init__()
        self.stem = conv_norm(3, 32, 3, stride=1 if small_image else 2, activation=nn.SiLU)
        blocks, channels_in = [], 32
        for expansion, channels, count, kernel, stride in STAGES:
            for block in range(count):
                first = stride if block == 0 else 1
                blocks.append(MBConv(channels_in, channels, expansion, kernel, first, unused_expansion))
                channels_in = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Identity() if small_image else conv_norm(channels_in, 1280, activation=nn.SiLU)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels_in if small_image else 1280, num_classes)
        if not small_image:
            he_init_(self)
            nn.init.uniform_(self.classifier.weight, -(num_classes**-0.5), num_classes**-0.5)
            nn.init.zeros_(self.classifier.bias)
        if unused_expansion:  # DistributedDataParallel would wait for its gradient
            names = [name for name, _ in self.named_parameters() if ".unused." in name]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, names)

    def forward(self, pixel_values: Tensor) -> Tensor:
        features = self.head(self.blocks(self.stem(pixel_values)))
        return self.classifier(self.dropout(features.mean(dim=(2, 3))))
