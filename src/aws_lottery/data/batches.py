"""Loaders: iterables of (images, labels) batches, in a seeded order, that accelerate can share among processes."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

from .splits import DecodedSplit, ImageSplit, Item, as_is

if TYPE_CHECKING:
    from accelerate import Accelerator

DRAWN_AT_ONCE = 1024  # items


class Images(TensorDataset):
    """Images (N, channels, height, width) with labels (N,), taken by the batch: one gather instead of N look-ups."""

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        rows = torch.as_tensor(indices)
        return tuple(tensor[rows.to(tensor.device, non_blocking=True)] for tensor in self.tensors)

    def to(self, device: torch.device | str) -> "Images":
        """The same on `device`."""
        return Images(*(tensor.to(device) for tensor in self.tensors))


def batches(
    data: Images | ImageSplit,
    batch_size: int,
    *,
    seed: int | None = None,
    partial_batch: bool = False,
    filled_up: bool = False,
) -> DataLoader:
    """A loader of (images, labels) batches.

    Args:
        data: images as they are, or a split of `load_data`, which is augmented if a seed is given.
        batch_size: over all processes together, where accelerate prepares the loader with split_batches.
        seed: of the data order, reshuffled every epoch, and of the augmentation; None: in order, all of them, in the
            evaluation view.
        partial_batch: in the order of a seed, give a last batch that is not full as well, instead of leaving it out.
            Several processes need equal shares: accelerate fills it up for them, from the epoch's first images.
        filled_up: whether it will be, so that a last batch of a single image is no error.

    Returns:
        What yields a tensor (batch_size, channels, height, width) and labels (batch_size,).

    Raises:
        TypeError: For data of another type.
        ValueError: If not one batch is full and none else is wanted, if the last one would be a single image, or
            batch_size is no number of images.

    Example:
        >>> from aws_lottery.data import batches, digit_images
        >>> images, labels = next(iter(batches(digit_images("train"), 32, seed=0)))
        >>> images.shape, labels.shape
        (torch.Size([32, 1, 8, 8]), torch.Size([32]))
    """
    check_images(data, "data")
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number, 1 or more, got {batch_size!r}")
    shuffle = seed is not None
    if shuffle:
        check_batch_size(len(data), batch_size, partial_batch=partial_batch, filled_up=filled_up)
    drop_last = shuffle and not partial_batch
    if isinstance(data, ImageSplit):
        order = SeededOrder(len(data), seed=seed, draws=data.augmentation.draws)
        return ImageLoader(data, batch_size, order, drop_last=drop_last)
    generator = torch.Generator().manual_seed(seed) if shuffle else None
    return DataLoader(data, batch_size, shuffle=shuffle, generator=generator, drop_last=drop_last, collate_fn=as_is)


@contextmanager
def shared(loader: DataLoader, accelerator: "Accelerator") -> Iterator[DataLoader]:
    """The loader as accelerate shares its batches among processes, in a `with` block.

    accelerate keeps what it has prepared, and with a loader its workers: one for each epoch would become hundreds.

    Args:
        loader: of `batches`.
        accelerator: whose processes and device it is for.

    Yields:
        What accelerate makes of it.
    """
    prepared = accelerator.prepare_data_loader(loader)
    try:
        yield prepared
    finally:
        accelerator._dataloaders[:] = [other for other in accelerator._dataloaders if other is not prepared]


def check_images(data: object, what: str) -> None:
    """Raises TypeError that says what to make of `data`, `what` in messages, if it is of another type."""
    if not isinstance(data, Images | ImageSplit):
        raise TypeError(
            f"{what} must be Images or an ImageSplit, got {type(data).__name__}: aws_lottery.data.Images(images, "
            "labels) takes tensors, load_data gives the splits of a data set"
        )


def check_batch_size(images: int, batch_size: int, *, partial_batch: bool = False, filled_up: bool = False) -> None:
    """Raises ValueError if there is no batch to train on, or if one has a single image; arguments as in `batches`."""
    if not partial_batch and images < batch_size:
        raise ValueError(
            f"batch_size={batch_size} is more than there is, {images} images: no batch would be full; "
            f"take a batch_size of {images} or less"
        )
    if partial_batch and not filled_up and images % batch_size == 1:
        raise ValueError(
            f"{images} images in batches of {batch_size} leave 1 for the last batch of an epoch, which is trained on "
            "too, and BatchNorm has no statistics of one image; take another batch_size, or the protocol 'paper', "
            "which leaves that batch out"
        )


class SeededOrder(Sampler[Item]):
    """The items of an epoch: (index, its augmentation's random numbers), a function of seed and epoch alone.

    Args:
        length: number of items.
        seed: None: in order, without random numbers.
        draws: random numbers an item.
    """

    def __init__(self, length: int, *, seed: int | None, draws: int):
        self.length, self.seed, self.draws, self.epoch = length, seed, draws, 0

    def set_epoch(self, epoch: int) -> None:
        """Which epoch comes next (accelerate calls this; else they are counted)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Item]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        if self.seed is None:
            return ((index, ()) for index in range(self.length))
        return self._shuffled(_generator(self.seed, epoch))

    def _shuffled(self, generator: torch.Generator) -> Iterator[Item]:
        for indices in torch.randperm(self.length, generator=generator).split(DRAWN_AT_ONCE):
            numbers = torch.rand(len(indices), self.draws, generator=generator)
            yield from zip(indices.tolist(), numbers.tolist(), strict=True)


def _generator(seed: int, epoch: int) -> torch.Generator:
    """A stream of its own for every epoch; neighbouring seeds have nothing in common."""
    digest = hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


class ImageLoader(DataLoader):
    """Batches of a split: (normalized float images, labels), both on the split's device.

    accelerate builds its own loader from this one's parts; its batches are the same, on the accelerator's device.
    """

    def __init__(self, split: ImageSplit, batch_size: int, order: SeededOrder, *, drop_last: bool):
        workers = 0 if isinstance(split, DecodedSplit) else split.workers
        options: dict[str, Any] = {"persistent_workers": True, "prefetch_factor": 4} if workers else {}
        self.split = split
        super().__init__(
            split,
            batch_size,
            sampler=order,
            drop_last=drop_last,
            collate_fn=as_is,
            num_workers=workers,
            pin_memory=bool(workers) and torch.cuda.is_available(),
            **options,
        )

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.split.device
        for pixels, labels in super().__iter__():
            yield pixels.to(device), labels.to(device)
