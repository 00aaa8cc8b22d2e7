"""Image files of a data set's rows as 8-bit RGB pixels; one that can't be decoded is named."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .augment import Box

if TYPE_CHECKING:
    from datasets import Dataset


class CorruptImageError(ValueError):
    """An image of a data set can't be decoded; the message says which."""


@dataclass(frozen=True, eq=False)
class Rows:
    """A split whose images are read and decoded here, not by `datasets`.

    Args:
        dataset: its `image` column casted to Image(decode=False).
        image: name of the column of images.
        label: name of the column of labels.
        split: its name, for messages.
    """

    dataset: "Dataset"
    image: str
    label: str
    split: str

    def __len__(self) -> int:
        return len(self.dataset)

    def some(self, count: int) -> "Rows":
        """`count` rows drawn at random, always the same; all of them if there are no more.

        Raises: ValueError for less than 1.
        """
        if count < 1:
            raise ValueError(f"load_data: max_train_samples must be 1 or more, got {count}")
        order = np.random.default_rng(0).permutation(len(self))[:count]
        return replace(self, dataset=self.dataset.select(np.sort(order)))

    def labels(self) -> Tensor:
        """(N,) int64."""
        return torch.tensor(self.dataset.with_format("numpy")[self.label][:], dtype=torch.int64)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of image `index`, from the file's header.

        Raises: CorruptImageError.
        """
        with self._naming(index), self._open(index) as image:
            return image.height, image.width

    def pixels(self, index: int, box: Callable[[int, int], Box], size: int, *, draft: bool) -> np.ndarray:
        """The part of image `index` that `box(height, width)` chooses, resized: uint8 (size, size, 3).

        Args:
            index: of the row.
            box: (height, width) of the image -> the part to take.
            size: pixels a side of the result.
            draft: JPEGs may be decoded at 1/2, 1/4 or 1/8, which is faster and close, not equal.

        Returns:
            RGB, from 0 to 255.

        Raises:
            CorruptImageError: If the image can't be decoded.
        """
        with self._naming(index), self._open(index) as image:
            return np.asarray(_resized(image, box(image.height, image.width), size, draft=draft))

    def _open(self, index: int) -> Image.Image:
        file = self.dataset[index][self.image]
        if file is None:
            raise ValueError("the row holds no image")
        return Image.open(file["path"] if file["bytes"] is None else io.BytesIO(file["bytes"]))

    @contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a broken file makes a decoder raise
            file = self.dataset[index][self.image]
            path = f" ({file['path']})" if file and file["path"] else ""
            raise CorruptImageError(
                f"image {index}{path} of split '{self.split}' can't be decoded: {error}; "
                "mend or remove it, or leave such images out with skip_corrupt=True"
            ) from error


def _resized(image: Image.Image, box: Box, size: int, *, draft: bool) -> Image.Image:
    (top, left, height, width), (full_width, full_height) = box, image.size
    if draft and image.format == "JPEG":
        image.draft(None, (int(full_width * size / width), int(full_height * size / height)))
    across, down = image.width / full_width, image.height / full_height
    corners = (left * across, top * down, (left + width) * across, (top + height) * down)
    corners = (*corners[:2], min(corners[2], image.width), min(corners[3], image.height))  # rounding
    return as_rgb(image).resize((size, size), Image.Resampling.BILINEAR, box=corners)


def as_rgb(image: Image.Image) -> Image.Image:
    """Grey, palette and CMYK images in RGB; what is transparent becomes opaque.

    Raises: ValueError for more than 8 bits a channel, which PIL would clip.
    """
    if image.mode[0] in "IF":
        raise ValueError(f"mode {image.mode} has more than 8 bits a channel")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
