"""ResNet-18 and ResNet-50 (He et al., 2016), for ImageNet and for small images.

Own code, because the strided stem and the max-pool of transformers' ResNet can't be configured away.
"""

import torch
from torch import Tensor, nn

from .layers import conv_norm, he_init_

LAYOUTS = {18: ((2, 2, 2, 2), 1), 50: ((3, 4, 6, 3), 4)}  # depth -> blocks of each stage, expansion


class Block(nn.Module):
    """Two 3x3 convolutions (expansion 1), or 1x1, 3x3, 1x1 with the stride in the 3x3, and a shortcut."""

    def __init__(self, channels_in: int, width: int, stride: int, expansion: int):
        super().__init__()
        channels = width * expansion
        if expansion == 1:
            convolutions = [
                conv_norm(channels_in, width, 3, stride=stride, activation=nn.ReLU),
                conv_norm(width, channels, 3),
            ]
        else:
            convolutions = [
                conv_norm(channels_in, width, activation=nn.ReLU),
                conv_norm(width, width, 3, stride=stride, activation=nn.ReLU),
                conv_norm(width, channels),
            ]
        self.residual = nn.Sequential(*convolutions)
        same = stride == 1 and channels_in == channels
        self.shortcut = nn.Identity() if same else conv_norm(channels_in, channels, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.residual(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Images (batch, 3, height, width) -> logits (batch, num_classes).

    `small_image`: a 3x3 stem of stride 1 and no max-pool. No scale of a BatchNorm starts at 0.

    Initialization is torchvision's: convolutions N(0, 2 / fan_out), the classifier as torch makes it. The stem for
    small images stays as torch makes it, as in the authors' ResNet-50, which is torchvision's with another stem.
    Raises: ValueError for a depth that is not in LAYOUTS.
    """

    def __init__(self, depth: int, num_classes: int, *, small_image: bool = False):
        super().__init__()
        if depth not in LAYOUTS:
            raise ValueError(f"depth must be one of {', '.join(map(str, LAYOUTS))}, got {depth}")
        blocks_of_stage, expansion = LAYOUTS[depth]
        if small_image:
            self.stem = conv_norm(3, 64, 3, activation=nn.ReLU)
        else:
            self.stem = conv_norm(3, 64, 7, stride=2, activation=nn.ReLU)
            self.stem.append(nn.MaxPool2d(3, stride=2, padding=1))
        blocks, channels = [], 64
        for stage, count in enumerate(blocks_of_stage):
            width = 64 * 2**stage
            for block in range(count):
                blocks.append(Block(channels, width, stride=2 if stage > 0 and block == 0 else 1, expansion=expansion))
                channels = width * expansion
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, num_classes)
        he_init_(self.blocks if small_image else self)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.classifier(self.blocks(self.stem(pixel_values)).mean(dim=(2, 3)))
