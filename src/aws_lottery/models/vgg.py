"""VGG11 with BatchNorm (Simonyan and Zisserman, 2015), for ImageNet and for small images; transformers has none."""

from torch import Tensor, nn

from .layers import conv_norm, he_init_

STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))  # channels; a max-pool after each stage


class VGG11(nn.Module):
    """Images (batch, 3, height, width), 32 pixels or more -> logits (batch, num_classes).

    `small_image` has one linear layer after the mean of the features, instead of three with `dropout` between them
    after pooling to 7x7. Convolutions have biases, as published.

    Initialization: the form for ImageNet is torchvision's: convolutions N(0, 2 / fan_out), linear layers N(0, 0.01^2),
    all their biases 0. The small-image form is pytorch-cifar's, with torch's default throughout.
    """

    def __init__(self, num_classes: int, *, small_image: bool = False, dropout: float = 0.5):
        super().__init__()
        layers, channels_in = [], 3
        for stage in STAGES:
            for channels in stage:
                layers.append(conv_norm(channels_in, channels, 3, bias=True, activation=nn.ReLU))
                channels_in = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1 if small_image else 7)
        hidden = [] if small_image else [(512 * 49, 4096), (4096, 4096)]
        self.hidden = nn.Sequential(
            *(nn.Sequential(nn.Linear(*sizes), nn.ReLU(), nn.Dropout(dropout)) for sizes in hidden)
        )
        self.classifier = nn.Linear(512 if small_image else 4096, num_classes)
        if not small_image:
            he_init_(self, linear_std=0.01)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.classifier(self.hidden(self.pool(self.features(pixel_values)).flatten(1)))
