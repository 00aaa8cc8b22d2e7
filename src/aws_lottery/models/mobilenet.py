"""MobileNetV2 (Sandler et al., 2018), for ImageNet and for small images.

Own code, because the strides of transformers' MobileNetV2 are fixed, and its BatchNorm momentum of 0.997 (TensorFlow's
meaning of the word) leaves statistics of about one batch.
"""

from torch import Tensor, nn

from .layers import conv_norm, he_init_

STAGES = (  # expansion, channels, blocks, stride, stride for small images
    (1, 16, 1, 1, 1),
    (6, 24, 2, 2, 1),
    (6, 32, 3, 2, 2),
    (6, 64, 4, 2, 2),
    (6, 96, 3, 1, 1),
    (6, 160, 3, 2, 2),
    (6, 320, 1, 1, 1),
)


class InvertedResidual(nn.Module):
    """1x1 up, 3x3 depthwise, 1x1 down without activation; a shortcut where the stride is 1 and the channels stay."""

    def __init__(self, channels_in: int, channels: int, expansion: int, stride: int, small_image: bool):
        super().__init__()
        hidden, activation = channels_in * expansion, nn.ReLU if small_image else nn.ReLU6
        expand = [conv_norm(channels_in, hidden, activation=activation)] if expansion > 1 or small_image else []
        self.residual = nn.Sequential(
            *expand,
            conv_norm(hidden, hidden, 3, stride=stride, groups=hidden, activation=activation),
            conv_norm(hidden, channels),
        )
        self.shortcut = None
        if stride == 1 and channels_in == channels:
            self.shortcut = nn.Identity()
        elif stride == 1 and small_image:
            self.shortcut = conv_norm(channels_in, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) if self.shortcut is None else self.residual(x) + self.shortcut(x)


class MobileNetV2(nn.Module):
    """Images (batch, 3, height, width) -> logits (batch, num_classes).

    `small_image` is the usual CIFAR form, the authors' too: stride 1 in the stem and in the second stage, ReLU instead
    of ReLU6, a 1x1 expansion in the first block as well, and a 1x1 convolution as shortcut where only channels change.
    `dropout` before the classifier is 0 in the paper's experiments (the original: 0.2). `width` multiplies every number
    of channels, rounded to a multiple of 2 (the original: of 8, which would leave no narrow network narrow).

    Initialization: the small-image form has torch's default throughout, as the authors' own; that for ImageNet is
    torchvision's: convolutions N(0, 2 / fan_out), classifier N(0, 0.01) with bias 0.
    """

    def __init__(self, num_classes: int, *, small_image: bool = False, dropout: float = 0.0, width: float = 1.0):
        super().__init__()
        activation = nn.ReLU if small_image else nn.ReLU6
        channels_in, features = (2 * round(width * channels / 2) for channels in (32, 1280))
        self.stem = conv_norm(3, channels_in, 3, stride=1 if small_image else 2, activation=activation)
        blocks = []
        for expansion, wide, count, imagenet_stride, small_stride in STAGES:
            channels = 2 * round(width * wide / 2)
            stride = small_stride if small_image else imagenet_stride
            for block in range(count):
                blocks.append(
                    InvertedResidual(channels_in, channels, expansion, stride if block == 0 else 1, small_image)
                )
                channels_in = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = conv_norm(channels_in, features, activation=activation)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(features, num_classes)
        if not small_image:
            he_init_(self, linear_std=0.01)

    def forward(self, pixel_values: Tensor) -> Tensor:
        features = self.head(self.blocks(self.stem(pixel_values)))
        return self.classifier(self.dropout(features.mean(dim=(2, 3))))
