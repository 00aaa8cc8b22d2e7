"""A whole split decoded into one tensor, and the mean and standard deviation of its pixels."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .augment import Box, center_box
from .decode import CorruptImageError, Rows
from .splits import Triple, as_is

logger = logging.getLogger(__name__)
BATCH = 256
ALONE = 2048  # up to so many images, one process is done before workers have started


@dataclass(frozen=True, eq=False)
class _Squares(Dataset):
    """Images as squares; a batch is uint8 (n, size, size, 3) and the indices of the images that could be decoded."""

    rows: Rows
    size: int
    skip_corrupt: bool

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> tuple[np.ndarray, list[int]]:
        squares = {index: square for index in indices if (square := self._square(index)) is not None}
        empty = np.empty((0, self.size, self.size, 3), np.uint8)
        return np.stack(list(squares.values())) if squares else empty, list(squares)

    def _square(self, index: int) -> np.ndarray | None:
        try:
            return self.rows.pixels(index, self._box, self.size, draft=False)
        except CorruptImageError as error:
            if not self.skip_corrupt:
                raise
            logger.warning("%s; skipped", error)
            return None

    def _box(self, height: int, width: int) -> Box:
        return center_box(height, width, self.size, self.size)


def decode_all(rows: Rows, size: int, *, workers: int, skip_corrupt: bool) -> dict[str, Tensor]:
    """Every image: the shorter side resized to `size`, the center taken.

    Returns: `images` (N, 3, size, size) uint8, `labels` (N,) int64, `histogram` (3, 256) int64, counts of pixels.
    Raises: CorruptImageError unless `skip_corrupt`, which leaves such images out.
    """
    workers = workers if len(rows) > ALONE else 0
    squares = _Squares(rows, size, skip_corrupt)
    images = torch.empty(len(rows), 3, size, size, dtype=torch.uint8)
    decoded: list[int] = []
    for arrays, indices in DataLoader(squares, BATCH, num_workers=workers, collate_fn=as_is):
        images[len(decoded) : len(decoded) + len(indices)] = torch.from_numpy(arrays).permute(0, 3, 1, 2)
        decoded += indices
    if len(decoded) < len(rows):
        logger.warning("%d of %d images of split '%s' skipped", len(rows) - len(decoded), len(rows), rows.split)
    images = images[: len(decoded)]
    return {"images": images, "labels": rows.labels()[decoded], "histogram": _histogram(images)}


def _histogram(images: Tensor) -> Tensor:
    counts = torch.zeros(3, 256, dtype=torch.int64)
    for part in images.split(4096):
        counts += torch.stack([part[:, channel].flatten().bincount(minlength=256) for channel in range(3)])
    return counts


def statistics(histogram: Tensor) -> tuple[Triple, Triple]:
    """Mean and standard deviation per channel, of pixels from 0 to 1."""
    shares = histogram.double() / histogram.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = shares @ values
    variance = (shares * (values - mean[:, None]).square()).sum(1)
    (r, g, b), (std_r, std_g, std_b) = mean.tolist(), variance.sqrt().tolist()
    return (r, g, b), (std_r, std_g, std_b)
