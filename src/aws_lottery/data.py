"""Data sets as tensors that a DataLoader hands out a batch at a time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

if TYPE_CHECKING:
    from datasets import DatasetDict


class Images(TensorDataset):
    """Images (N, channels, height, width) with labels (N,), taken by the batch: one gather instead of N look-ups."""

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        rows = torch.as_tensor(indices)
        return tuple(tensor[rows] for tensor in self.tensors)


def digits() -> "DatasetDict":
    """The 1,797 handwritten digits that come with scikit-learn, 8x8 grey levels 0-16, 10 classes; nothing downloads.

    Returns: splits `train` (1,437) and `test` (360), stratified and always the same; columns `image`, an 8x8 nested
    list of integers, and `label`. Source: UCI Optical Recognition of Handwritten Digits.
    """
    import datasets
    from sklearn.datasets import load_digits

    raw = load_digits()
    features = datasets.Features(
        {"image": datasets.Array2D((8, 8), "uint8"), "label": datasets.ClassLabel(num_classes=10)}
    )
    whole = datasets.Dataset.from_dict({"image": raw.images.astype("uint8"), "label": raw.target}, features=features)
    return whole.train_test_split(360, seed=0, stratify_by_column="label")


def digit_images(split: str) -> Images:
    """A split of `digits` as images (N, 1, 8, 8), float32 with mean 0 and standard deviation 1 over the train split."""
    columns = digits().with_format("numpy")
    pixels = {name: torch.tensor(part["image"][:], dtype=torch.float32) for name, part in columns.items()}
    std, mean = torch.std_mean(pixels["train"])
    labels = torch.tensor(columns[split]["label"][:], dtype=torch.int64)
    return Images(((pixels[split] - mean) / std).unsqueeze(1), labels)


def batches(data: Images, batch_size: int, *, seed: int | None = None) -> DataLoader:
    """A loader of (images, labels) batches.

    Args:
        batch_size: over all processes together, where accelerate prepares the loader with split_batches.
        seed: of the data order, reshuffled every epoch, a last short batch left out (BatchNorm needs company);
            None: in order, all of them.
    """
    shuffle = seed is not None
    generator = torch.Generator().manual_seed(seed) if shuffle else None
    return DataLoader(data, batch_size, shuffle=shuffle, generator=generator, drop_last=shuffle, collate_fn=_as_is)


def _as_is(batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return batch
