"""Handwritten digits that come with scikit-learn: real data for tests and demonstrations without a download."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from .batches import Images

if TYPE_CHECKING:
    from datasets import DatasetDict


def digits(*, validation: int = 0) -> "DatasetDict":
    """The 1,797 handwritten digits that come with scikit-learn, 8x8 grey levels 0-16, 10 classes; nothing downloads.

    Args:
        validation: how many digits of the train split are held out of it, as a split `validation`, to choose by.

    Returns:
        Splits `train` (1,437) and `test` (360), stratified and always the same; columns `image`, an 8x8 nested list of
        integers, and `label`. Source: UCI Optical Recognition of Handwritten Digits.
    """
    import datasets
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    features = datasets.Features(
        {"image": datasets.Array2D((8, 8), "uint8"), "label": datasets.ClassLabel(num_classes=10)}
    )
    whole = datasets.Dataset.from_dict(
        {"image": np.asarray(pixels, "uint8").reshape(-1, 8, 8), "label": labels}, features=features
    )
    parts = whole.train_test_split(360, seed=0, stratify_by_column="label")
    if validation:
        held_out = parts["train"].train_test_split(validation, seed=0, stratify_by_column="label")
        parts["train"], parts["validation"] = held_out["train"], held_out["test"]
    return parts


def digit_images(split: str, *, validation: int = 0) -> Images:
    """A split of `digits` as images (N, 1, 8, 8), float32 with mean 0 and standard deviation 1 over the train split."""
    columns = digits(validation=validation).with_format("numpy")
    pixels = {name: torch.tensor(part["image"][:], dtype=torch.float32) for name, part in columns.items()}
    std, mean = torch.std_mean(pixels["train"])
    labels = torch.tensor(columns[split]["label"][:], dtype=torch.int64)
    return Images(((pixels[split] - mean) / std).unsqueeze(1), labels)
