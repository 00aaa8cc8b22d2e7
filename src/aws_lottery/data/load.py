"""`load_data`: train and test images of a data set from the Hub, a folder, or `datasets` objects."""

import logging
import math
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..config import PROTOCOLS
from .augment import Augmentation
from .batches import Images
from .cache import cached
from .decode import CorruptImageError, Rows
from .decode_all import decode_all, statistics
from .presets import augmentation_for, known
from .rows import choose_rows, count_classes, open_parts
from .splits import DecodedSplit, ImageSplit, StreamedSplit, Triple

if TYPE_CHECKING:
    from .rows import Source

logger = logging.getLogger(__name__)
CODE_VERSION = "1"  # of how pixels are made: where it changes, cached files are made anew
SIZES_LOOKED_AT = 16  # images
MEASURED = 4096  # images of a streamed split, to measure mean and standard deviation on


@dataclass(frozen=True)
class ImageData:
    """A data set to train on: give `train` and `test` to `batches`.

    Args:
        train: what to train on.
        test: what to measure on.
        num_classes: labels are 0 to num_classes - 1.
        name: of the data set.
    """

    train: Images | ImageSplit
    test: Images | ImageSplit
    num_classes: int
    name: str

    @property
    def image_size(self) -> int:
        """Pixels a side of what the network sees."""
        if isinstance(self.train, ImageSplit):
            return self.train.augmentation.size
        return self.train.tensors[0].shape[-1]

    @property
    def mean(self) -> Triple | None:
        """Of the pixels that are seen as 0, for each channel; None of images that are taken as they are."""
        return self.train.mean if isinstance(self.train, ImageSplit) else None

    @property
    def std(self) -> Triple | None:
        return self.train.std if isinstance(self.train, ImageSplit) else None

    def to(self, device: torch.device | str) -> "ImageData":
        """The same with its batches, and all decoded images, on `device`."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def load_data(
    source: "Source",
    *,
    image: str | None = None,
    label: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    test_share: float | None = None,
    max_train_samples: int | None = None,
    augmentation: Augmentation | None = None,
    mean: Triple | None = None,
    std: Triple | None = None,
    protocol: str = "paper",
    decoded: bool | None = None,
    max_decoded_bytes: int = 4 << 30,
    skip_corrupt: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    **options: Any,
) -> ImageData:
    """Images to train and to measure on.

    Args:
        source: an id on the Hub, a folder of parquet files or of images, or what `datasets.load_dataset` gave.
        image: column of images; None: found (`columns.image_column`).
        label: column of labels; None: found (`columns.label_column`).
        train_split: split to train on; None: found (`columns.find_splits`).
        test_split: split to measure on; None: found.
        test_share: hold out this share of the train split to measure on, always the same rows.
        max_train_samples: train on so many images at most, drawn at random, always the same.
        augmentation: None: the paper's, by the data set's name or else by its images' size.
        mean: per channel of pixels from 0 to 1; None: as published, else measured on the train split.
        std: likewise.
        protocol: a row of PROTOCOLS; `released-code` takes CIFAR-10's mean and std for CIFAR-100.
        decoded: keep all images in memory, decoded and cut to squares (True), or decode them for every batch (False);
            None: keep them if they have the right size as they are and take at most `max_decoded_bytes`.
        max_decoded_bytes: of both splits together.
        skip_corrupt: leave out images that can't be decoded, and log them; else they are an error.
        cache_dir: of decoded images; None: `aws_lottery` in the cache of `datasets`.
        workers: processes that decode; None: one a core, 8 at most.
        options: of `datasets.load_dataset` (name, revision, token, ...).

    Returns:
        A train and a test split, to be given to `train`, `find_signed_mask`, `batches` and the like.

    Raises:
        TypeError: For a source that is none of these.
        FileNotFoundError: For a path that is not there.
        ValueError: If columns, splits or labels are unclear, or for an unknown protocol.
        CorruptImageError: A ValueError as well, for an image that can't be decoded.

    Example:
        >>> from aws_lottery import load_data
        >>> data = load_data("uoft-cs/cifar100")  # doctest: +SKIP
        >>> data.num_classes, data.image_size  # doctest: +SKIP
        (100, 32)
    """
    _check_numbers(workers, mean=mean, std=std)
    if protocol not in PROTOCOLS:
        raise ValueError(f"load_data: unknown protocol {protocol!r} (known: {', '.join(PROTOCOLS)})")
    name, parts = open_parts(source, options)
    train, test = choose_rows(
        parts, image=image, label=label, train_split=train_split, test_split=test_split, test_share=test_share
    )
    num_classes = count_classes(train, test)
    if max_train_samples is not None:
        train = train.some(max_train_samples)
    published, sizes = known(name), _sizes(train)
    rules = augmentation or (published.augmentation if published else augmentation_for(min(map(min, sizes))))
    taken = (len(train) + len(test)) * 3 * rules.stored_size**2
    if decoded is None:
        decoded = sizes == {(rules.stored_size, rules.stored_size)} and taken <= max_decoded_bytes
    _log_form(name, sizes, rules.stored_size, taken, decoded)
    reading = {"workers": _cores() if workers is None else workers, "skip_corrupt": skip_corrupt}
    if decoded:
        form = partial(_decoded_once, size=rules.stored_size, name=name, folder=_folder(cache_dir), **reading)
    else:
        form = partial(_streamed, size=rules.stored_size, **reading)
    (make_train, histogram), (make_test, _) = form(train), form(test)
    if mean is None or std is None:
        pixels = published.pixels(protocol) if published else statistics(histogram())
        mean, std = mean or pixels[0], std or pixels[1]
    splits = [make(augmentation=rules, mean=mean, std=std) for make in (make_train, make_test)]
    return ImageData(splits[0], splits[1], num_classes, name)


def _check_numbers(workers: int | None, **channels: Triple | None) -> None:
    if workers is not None and (not isinstance(workers, int) or workers < 0):
        raise ValueError(f"load_data: workers must be a whole number, 0 or more, or None, got {workers!r}")
    for name, values in channels.items():
        if values is not None and (
            len(values) != 3 or not all(math.isfinite(x) and (x > 0 or name == "mean") for x in values)
        ):
            raise ValueError(f"load_data: {name} must be three numbers, one a channel (std: above 0), got {values!r}")


Form = tuple[Callable[..., ImageSplit], Callable[[], Tensor]]  # a split that lacks its augmentation, its histogram


def _decoded_once(rows: Rows, *, size: int, name: str, folder: Path, workers: int, skip_corrupt: bool) -> Form:
    """Decoded once, and kept on disk."""
    key = {
        "format": "aws_lottery.images",
        "version": CODE_VERSION,
        "fingerprint": rows.dataset._fingerprint,
        "columns": f"{rows.image} {rows.label}",
        "size": str(size),
        "skip_corrupt": str(skip_corrupt),
    }
    build = partial(decode_all, rows, size, workers=workers, skip_corrupt=skip_corrupt)
    tensors = cached(folder, f"{name}-{rows.split}-{size}", key, build)
    histogram = tensors.pop("histogram")
    return partial(DecodedSplit, split=rows.split, **tensors), lambda: histogram


def _streamed(rows: Rows, *, size: int, workers: int, skip_corrupt: bool) -> Form:
    """Decoded for every batch; the histogram is that of some images."""

    def histogram() -> Tensor:
        some = rows.dataset.select(range(0, len(rows), -(-len(rows) // MEASURED)))
        logger.info("measuring mean and standard deviation on %d images; give mean= and std= to skip this", len(some))
        sample = replace(rows, dataset=some)
        return decode_all(sample, size, workers=workers, skip_corrupt=skip_corrupt)["histogram"]

    corrupt = torch.zeros(len(rows), dtype=torch.bool).share_memory_()
    labels, flags = rows.labels(), {"skip_corrupt": skip_corrupt, "corrupt": corrupt, "workers": workers}
    return partial(StreamedSplit, split=rows.split, rows=rows, labels=labels, **flags), histogram


def _sizes(rows: Rows) -> set[tuple[int, int]]:
    """Heights and widths of some images all over the split."""
    sizes, step = set(), max(1, len(rows) // SIZES_LOOKED_AT)
    for index in range(0, len(rows), step):
        with suppress(CorruptImageError):
            sizes.add(rows.size(index))
    return sizes or {rows.size(0)}


def _log_form(name: str, sizes: set[tuple[int, int]], side: int, taken: int, decoded: bool) -> None:
    some = " or ".join(f"{height} x {width}" for height, width in sorted(sizes)[:3])
    how = "decoded once, kept in memory" if decoded else "decoded for every batch"
    logger.info("%s: images of %s pixels, %.2f GB as %d x %d: %s", name, some, taken / 1e9, side, side, how)


def _folder(cache_dir: str | os.PathLike[str] | None) -> Path:
    if cache_dir is not None:
        return Path(cache_dir)
    from datasets import config

    return Path(config.HF_DATASETS_CACHE) / "aws_lottery"


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8)
