"""ShuffleNet v1 (Zhang et al., 2018), for ImageNet and for small images; transformers has none."""

import torch
from torch import Tensor, nn

from .layers import conv_norm

CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}  # groups -> channels of the first stage (Table 1 there)
BLOCKS = (4, 8, 4)  # of each stage; channels double from stage to stage


class ShuffleUnit(nn.Module):
    """Grouped 1x1, channel shuffle, 3x3 depthwise, grouped 1x1; added to x, or with stride 2 appended to pooled x."""

    def __init__(self, channels_in: int, channels: int, stride: int, groups: int, first_groups: int):
        super().__init__()
        bottleneck = channels // 4
        new = channels if stride == 1 else channels - channels_in
        self.groups = groups
        self.reduce = conv_norm(channels_in, bottleneck, groups=first_groups, activation=nn.ReLU)
        self.depthwise = conv_norm(bottleneck, bottleneck, 3, stride=stride, groups=bottleneck)
        self.expand = conv_norm(bottleneck, new, groups=groups)
        self.pool = None if stride == 1 else nn.AvgPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        shuffled = self.reduce(x).unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
        new = self.expand(self.depthwise(shuffled))
        return torch.relu(x + new if self.pool is None else torch.cat((self.pool(x), new), dim=1))


class ShuffleNet(nn.Module):
    """Images (batch, 3, height, width) -> logits (batch, num_classes); 1x wide, `groups` of 1, 2, 3, 4 or 8.

    `small_image` is the usual CIFAR form, the authors' too, but for the convolutions' biases that BatchNorm cancels:
    a stem of stride 1, no max-pool, and the very first 1x1 convolution is grouped like the others.

    Initialization: the small-image form has torch's default throughout, as the authors' own; the convolutions of that
    for ImageNet, which the paper does not use, start as imgclsmob's: uniform with variance 2 / fan_in.
    Raises: ValueError for another number of groups.
    """

    def __init__(self, num_classes: int, *, small_image: bool = False, groups: int = 3):
        super().__init__()
        if groups not in CHANNELS:
            raise ValueError(f"groups must be one of {', '.join(map(str, CHANNELS))}, got {groups}")
        self.stem = conv_norm(3, 24, 3, stride=1 if small_image else 2, activation=nn.ReLU)
        if not small_image:
            self.stem.append(nn.MaxPool2d(3, stride=2, padding=1))
        units, channels_in = [], 24
        for stage, count in enumerate(BLOCKS):
            channels = CHANNELS[groups] * 2**stage
            for unit in range(count):
                grouped = small_image or stage > 0 or unit > 0
                stride = 2 if unit == 0 else 1
                units.append(ShuffleUnit(channels_in, channels, stride, groups, groups if grouped else 1))
                channels_in = channels
        self.units = nn.Sequential(*units)
        self.classifier = nn.Linear(channels_in, num_classes)
        if not small_image:
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_uniform_(module.weight)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.classifier(self.units(self.stem(pixel_values)).mean(dim=(2, 3)))
