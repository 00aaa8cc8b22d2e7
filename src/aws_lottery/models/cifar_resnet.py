"""The ResNets for small images of He et al. (2016), Section 4.2: ResNet-20, ResNet-32 and so on."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import he_init_


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A: subsample, pad channels with zeros).

    He et al. (2016) have option A in all their networks for CIFAR (Section 4.2), so that these have no more parameters
    than the plain ones. Option B has a 1x1 convolution where the channels change, and so more weights to prune; the
    paper does not say which of the two its ResNet-32 (Figure 4) has.
    """

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.widen = stride, channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.widen))
        return torch.relu(out + shortcut)


class CifarResNet(nn.Module):
    """ResNet of `depth` = 6n + 2 layers in three stages of n blocks, of 1, 2 and 4 times `width` channels.

    Images (batch, channels, height, width) of any size from 4 up -> logits (batch, num_classes). Depth 20, width 16,
    10 classes: 269,722 parameters (with option B shortcuts it would be 272,474).

    Initialization: convolutions N(0, 2 / fan_out), as in fb.resnet.torch; the classifier as torch makes it, bias
    included (there: 0), so that the bias takes its sign from a mask.
    Raises: ValueError for another depth.
    """

    def __init__(self, depth: int, num_classes: int, *, width: int = 16, channels: int = 3):
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6n + 2, 8 or more (8, 14, 20, 32, ...), got {depth}")
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks, n = [], (depth - 2) // 6
        for stage, size in enumerate((width, 2 * width, 4 * width)):
            for block in range(n):
                first = stage > 0 and block == 0
                blocks.append(BasicBlock(size // 2 if first else size, size, stride=2 if first else 1))
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(4 * width, num_classes)
        he_init_(self)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.bn1(self.conv1(pixel_values))))
        return self.classifier(x.mean(dim=(2, 3)))
