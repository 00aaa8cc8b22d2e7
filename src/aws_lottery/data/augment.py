"""Random crops and flips of whole batches in plain torch, on whatever device the images are.

All randomness comes in as numbers in [0, 1) that were drawn with the data order: an image gets the same view on any
number of processes and workers, on a CPU as on a GPU.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Box = tuple[float, float, float, float]  # top, left, height, width; in pixels
ATTEMPTS = 10  # of RandomResizedCrop at a box that fits into the image, as in torchvision


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How an image becomes the network's `size` x `size` input, in training and in evaluation.

    Args:
        padding: training crops `size` x `size` from the image with so many black pixels around (RandomCrop).
        scale: shares of the image's area; training resizes a random box of such an area (RandomResizedCrop).
            None: the box is `size` x `size`.
        ratio: width / height of that box.
        flip: training mirrors an image or not, at even odds.
        resize: evaluation resizes the shorter side to this, then takes the center. None: to `size`.
    """

    size: int
    padding: int = 0
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    resize: int | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and self.padding:
            raise ValueError("Augmentation: give padding (RandomCrop) or scale (RandomResizedCrop), not both")
        if self.stored_size < self.size:
            raise ValueError(f"Augmentation: resize={self.resize} is smaller than size={self.size}")

    @property
    def stored_size(self) -> int:
        """Pixels a side of an image that is decoded once, before any crop."""
        return self.resize or self.size

    @property
    def draws(self) -> int:
        """Random numbers an image needs: flip, top, left, and for RandomResizedCrop areas and ratios to try."""
        return 3 if self.scale is None else 3 + 2 * ATTEMPTS

    def __call__(self, images: Tensor, draws: Sequence[Sequence[float]] | None) -> Tensor:
        """Views (N, C, size, size) of images (N, C, height, width) with values from 0 to 255.

        Args:
            images: with channels first.
            draws: for each image its random numbers in [0, 1); None: the evaluation view.

        Returns:
            Uint8 like the images, float32 after RandomResizedCrop.
        """
        if draws is None:
            return _center(images, self.size)
        if self.scale is not None:
            height, width = images.shape[2:]
            images = resized_crop(
                images, torch.tensor([self.box(height, width, numbers) for numbers in draws]), self.size
            )
        else:
            images = padded_crop(images, self.padding, self.size, torch.tensor([numbers[1:3] for numbers in draws]))
        return _mirrored(images, torch.tensor([numbers[0] < 0.5 for numbers in draws])) if self.flip else images

    def box(self, height: int, width: int, draws: Sequence[float]) -> Box:
        """RandomResizedCrop's box in an image, in whole pixels, distributed as torchvision's."""
        assert self.scale is not None
        _, top, left, *tries = draws
        rows, columns = _random_extent(height, width, self.scale, self.ratio, tries) or (0, 0)
        if rows:
            return int(top * (height - rows + 1)), int(left * (width - columns + 1)), rows, columns
        rows = min(height, round(width / self.ratio[0]))  # nothing fits: the largest centered box
        columns = min(width, round(height * self.ratio[1]))
        return (height - rows) // 2, (width - columns) // 2, rows, columns


def _random_extent(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], tries: Sequence[float]
) -> tuple[int, int] | None:
    """Height and width of the first box to try that fits."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for share, tilt in zip(tries[::2], tries[1::2], strict=True):
        area, aspect = height * width * (scale[0] + (scale[1] - scale[0]) * share), math.exp(low + (high - low) * tilt)
        rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < rows <= height and 0 < columns <= width:
            return rows, columns
    return None


def resized_crop(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """The boxes (N, 4) of images (N, C, H, W), resized bilinearly with antialiasing as PIL does, but not rounded.

    Args:
        images: of any dtype.
        boxes: top, left, height and width of each, in pixels of the image.
        size: pixels a side of the result.

    Returns:
        Float32 (N, C, size, size).
    """
    boxes = boxes.to(images.device, torch.float32, non_blocking=True)
    with torch.autocast(images.device.type, enabled=False):
        rows = _weights(boxes[:, 0], boxes[:, 2], size, images.shape[2])
        columns = _weights(boxes[:, 1], boxes[:, 3], size, images.shape[3])
        across = images.float().flatten(1, 2) @ columns.mT
        return rows[:, None] @ across.unflatten(1, images.shape[1:3])


def _weights(start: Tensor, length: Tensor, size: int, available: int) -> Tensor:
    """(N, size, available): how much of each pixel of a line goes into each pixel of its resized stretch."""
    start, length = start[:, None, None], length[:, None, None]
    step = length / size
    targets = start + (torch.arange(size, device=start.device)[:, None] + 0.5) * step
    pixels = torch.arange(available, device=start.device) + 0.5
    weights = (1 - (pixels - targets).abs() / step.clamp(min=1)).clamp(min=0)
    weights = weights * ((pixels > start) & (pixels < start + length))
    return weights / weights.sum(2, keepdim=True)


def padded_crop(images: Tensor, padding: int, size: int, draws: Tensor) -> Tensor:
    """RandomCrop: `size` x `size` out of each image with `padding` black pixels around; draws: (N, 2) in [0, 1)."""
    padded = F.pad(images, (padding,) * 4)
    places = torch.tensor(padded.shape[2:]) - size + 1
    top, left = (draws * places).long().to(images.device, non_blocking=True).unbind(1)
    windows = padded.unfold(2, size, 1).unfold(3, size, 1)  # a view: (N, C, tops, lefts, size, size)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def _mirrored(images: Tensor, which: Tensor) -> Tensor:
    which = which.to(images.device, non_blocking=True)
    return torch.where(which[:, None, None, None], images.flip(3), images)


def _center(images: Tensor, size: int) -> Tensor:
    top, left = (round((side - size) / 2) for side in images.shape[2:])
    return images[:, :, top : top + size, left : left + size]


def center_box(height: int, width: int, resize: int, size: int) -> Box:
    """Where "resize the shorter side to `resize`, take the center `size` x `size`" looks in the image as it is.

    Args:
        height: of the image, in pixels.
        width: likewise.
        resize: pixels of the shorter side of the resized image.
        size: pixels a side of its center that is taken.

    Returns:
        Top, left, height, width in pixels of the image.
    """
    short = min(height, width)
    resized = [int(resize * side / short) for side in (height, width)]
    down, across = height / resized[0], width / resized[1]
    top, left = (round((side - size) / 2) for side in resized)
    return top * down, left * across, size * down, size * across
