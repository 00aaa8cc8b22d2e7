"""MLP-Mixer (Tolstikhin et al., 2021), whose only normalization is LayerNorm; transformers has none."""

from torch import Tensor, nn


def mlp(size: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, size))


class MixerBlock(nn.Module):
    """An MLP over the tokens and one over the channels of (batch, tokens, channels), each added to its input."""

    def __init__(self, tokens: int, channels: int, token_hidden: int, channel_hidden: int):
        super().__init__()
        self.token_norm, self.token_mlp = nn.LayerNorm(channels), mlp(tokens, token_hidden)
        self.channel_norm, self.channel_mlp = nn.LayerNorm(channels), mlp(channels, channel_hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token_mlp(self.token_norm(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channel_mlp(self.channel_norm(x))


class MLPMixer(nn.Module):
    """Images (batch, 3, image_size, image_size) -> logits (batch, num_classes); the defaults are the paper's network.

    Initialized as torch does, as the authors' is: U(-1, 1) / sqrt(fan_in). Nothing starts at 0 but LayerNorm's bias.
    Raises: ValueError if image_size is no multiple of patch_size, and in forward for images of another size.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        image_size: int = 224,
        patch_size: int = 16,
        width: int = 512,
        depth: int = 12,
        token_hidden: int = 784,
        channel_hidden: int = 256,
    ):
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"image_size must be a multiple of patch_size = {patch_size}, got {image_size}")
        self.image_size, tokens = image_size, (image_size // patch_size) ** 2
        self.patches = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.blocks = nn.Sequential(
            *(MixerBlock(tokens, width, token_hidden, channel_hidden) for _ in range(depth)),
        )
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        if pixel_values.shape[2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"this MLP-Mixer was made for images of {self.image_size} x {self.image_size} pixels, got "
                f"{' x '.join(map(str, pixel_values.shape[2:]))}; give create_model the image_size of your data"
            )
        tokens = self.patches(pixel_values).flatten(2).transpose(1, 2)
        return self.classifier(self.norm(self.blocks(tokens)).mean(dim=1))
