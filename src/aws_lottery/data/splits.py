"""A split of an image data set in one of two forms: decoded once into a tensor, or decoded anew for every batch.

Both give a batch as (Pixels, labels); an item of a batch is (index, random numbers of its augmentation), no numbers
for the evaluation view.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .augment import Augmentation, Box, center_box
from .decode import CorruptImageError, Rows

logger = logging.getLogger(__name__)
Draws = Sequence[float]
Item = tuple[int, Draws]
Triple = tuple[float, float, float]


class Pixels:
    """Images (N, 3, height, width) of 0 to 255 that `.to(device)` normalizes there, so that 8 bits travel, not 32.

    accelerate calls `.to` on what a loader gives; so the training loop sees floats.
    """

    def __init__(self, values: Tensor, mean: Triple, std: Triple):
        self.values, self.mean, self.std = values, mean, std

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Tensor:
        """(N, 3, height, width) float32 on `device`."""
        mean, std = _on_device(self.mean, self.std, device)
        return self.values.to(device, non_blocking=non_blocking).float().sub(mean).div_(std)

    def pin_memory(self) -> "Pixels":
        return Pixels(self.values.pin_memory(), self.mean, self.std)


def as_is(batch: Any) -> Any:
    """For loaders whose data sets make whole batches themselves."""
    return batch


@lru_cache(maxsize=8)
def _on_device(mean: Triple, std: Triple, device: torch.device | str) -> Tensor:
    return torch.tensor([mean, std], device=device).mul(255)[:, :, None, None]


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageSplit(Dataset):
    """What both forms of a split share.

    Args:
        split: its name, for messages.
        labels: (N,) int64, on the CPU.
        augmentation: of training, and the evaluation view.
        mean: per channel, of pixels from 0 to 1.
        std: likewise.
        device: where loaders put images and labels.
        workers: processes of a loader that decode.
    """

    split: str
    labels: Tensor
    augmentation: Augmentation
    mean: Triple
    std: Triple
    device: torch.device | str = "cpu"
    workers: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, items: Sequence[Item]) -> tuple[Pixels, Tensor]:
        indices, draws = zip(*items, strict=True)
        values, labels = self.views(indices, draws if draws[0] else None)
        return Pixels(values, self.mean, self.std), labels

    def views(self, indices: Sequence[int], draws: Sequence[Draws] | None) -> tuple[Tensor, Tensor]:
        """Values (N, 3, size, size) from 0 to 255, labels (N,)."""
        raise NotImplementedError

    def to(self, device: torch.device | str) -> "ImageSplit":
        return replace(self, device=device)


@dataclass(frozen=True, eq=False, kw_only=True)
class DecodedSplit(ImageSplit):
    """All images in one uint8 tensor (N, 3, S, S), augmented a batch at a time on the device where it lies.

    A batch waits nowhere for that device (non_blocking), which would then run out of work between two steps.
    """

    images: Tensor

    def views(self, indices: Sequence[int], draws: Sequence[Draws] | None) -> tuple[Tensor, Tensor]:
        rows, device = torch.tensor(indices), self.images.device
        chosen, labels = self.images[rows.to(device, non_blocking=True)], self.labels[rows]
        return self.augmentation(chosen, draws), labels.to(device, non_blocking=True)

    def to(self, device: torch.device | str) -> "DecodedSplit":
        return replace(self, device=device, images=self.images.to(device))


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamedSplit(ImageSplit):
    """Images are read from the data set, cropped and resized as they are decoded, in worker processes.

    Args:
        rows: where they are read from.
        skip_corrupt: the next readable row takes the place of a corrupt one, as batches keep their size.
        corrupt: (N,) bool in shared memory: the rows found corrupt so far, by any worker.
    """

    rows: Rows
    skip_corrupt: bool
    corrupt: Tensor

    def views(self, indices: Sequence[int], draws: Sequence[Draws] | None) -> tuple[Tensor, Tensor]:
        read = [self._readable(*item) for item in zip(indices, draws or [()] * len(indices), strict=True)]
        arrays, readable = zip(*read, strict=True)
        values = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
        rest = replace(self.augmentation, scale=None, resize=None)  # no box any more
        return rest(values, draws), self.labels[torch.tensor(readable)]

    def _readable(self, index: int, draws: Draws) -> tuple[np.ndarray, int]:
        """Pixels (size, size, 3) and the index of the row they come from."""
        for candidate in ((index + step) % len(self) for step in range(len(self))):
            if self.corrupt[candidate]:
                continue
            try:
                box = partial(self._box, draws)
                return self.rows.pixels(candidate, box, self.augmentation.size, draft=bool(draws)), candidate
            except CorruptImageError as error:
                if not self.skip_corrupt:
                    raise
                self.corrupt[candidate] = True
                logger.warning("%s; skipped, %d so far", error, int(self.corrupt.sum()))
        raise CorruptImageError(f"no image of split '{self.split}' can be decoded")

    def _box(self, draws: Draws, height: int, width: int) -> Box:
        rules = self.augmentation
        if draws and rules.scale is not None:
            return rules.box(height, width, draws)
        return center_box(height, width, rules.size if draws else rules.stored_size, rules.size)
