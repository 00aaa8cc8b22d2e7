"""Rows to train and to measure on, out of a data set from the Hub, a folder, or `datasets` objects."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .columns import find_splits, image_column, label_column, splits_text
from .decode import Rows

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    Source = str | os.PathLike[str] | Dataset | DatasetDict


def open_parts(source: "Source", options: dict[str, Any]) -> tuple[str, "DatasetDict"]:
    """Name of the data set, and its splits.

    Raises: TypeError for what is no data set; ValueError for what streams, whose rows can't be shuffled;
        FileNotFoundError for a path that is not there.
    """
    import datasets

    if isinstance(source, str | os.PathLike):
        _check_source(source)
        parts, name = datasets.load_dataset(os.fspath(source), **options), Path(source).name
    else:
        parts, name = source, None
    if isinstance(parts, datasets.Dataset):
        parts = datasets.DatasetDict({str(parts.split or "train"): parts})
    if not isinstance(parts, datasets.DatasetDict | datasets.IterableDataset | datasets.IterableDatasetDict):
        raise TypeError(
            f"load_data: takes an id on the Hub, a folder, a Dataset or a DatasetDict, got {type(parts).__name__}; "
            "for tensors there is aws_lottery.data.Images(images, labels), which needs no loading"
        )
    if not isinstance(parts, datasets.DatasetDict):
        raise ValueError(f"load_data: {type(parts).__name__} has no order to shuffle; load it with streaming=False")
    if not parts:
        raise ValueError("load_data: the data set has no splits")
    first = next(iter(parts.values()))
    return name or first.info.dataset_name or "images", parts


def _check_source(source: "str | os.PathLike[str]") -> None:
    """Of a path that is not there, load_dataset says that the Hub can't be reached."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if Path(source).exists():
        return
    try:
        validate_repo_id(os.fspath(source))
    except HFValidationError as error:
        raise FileNotFoundError(
            f"load_data: no folder '{source}'; give a folder of images or of parquet files, or an id on the Hub"
        ) from error


def choose_rows(
    parts: "DatasetDict",
    *,
    image: str | None = None,
    label: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    test_share: float | None = None,
) -> tuple[Rows, Rows]:
    """Rows of train and test; arguments as in `load_data`.

    Raises: ValueError if it is unclear which, with what there is.
    """
    from datasets import Image

    features = next(iter(parts.values())).features
    image, label = image_column(features, image), label_column(features, label)
    train, test = find_splits(parts, label, train=train_split, test=test_split)
    if test_share is not None and not (isinstance(test_share, float) and 0 < test_share < 1):
        raise ValueError(f"load_data: test_share must be between 0 and 1, got {test_share!r}")
    if test_share is not None:
        chosen = _held_out(parts[train], label, test_share)
    elif test is not None:
        chosen = {train: parts[train], test: parts[test]}
    else:
        raise ValueError(
            f"load_data: nothing with rows and labels to measure on, there is {splits_text(parts)}; give test_split=, "
            "or test_share=0.1 to hold out a tenth of the train split"
        )
    undecoded = {name: part.with_format(None).cast_column(image, Image(decode=False)) for name, part in chosen.items()}
    rows = [Rows(part, image, label, name) for name, part in undecoded.items()]
    return rows[0], rows[1]


def _held_out(part: "Dataset", label: str, share: float) -> "dict[str, Dataset]":
    from datasets import ClassLabel

    by_class = label if isinstance(part.features[label], ClassLabel) else None
    halves = part.train_test_split(share, seed=0, stratify_by_column=by_class)
    return {"train": halves["train"], "held out": halves["test"]}


def count_classes(train: Rows, test: Rows) -> int:
    """Classes by the label column's type, else one more than the largest label.

    Raises: ValueError for a split without rows, for rows without a label, and for labels out of range.
    """
    for rows in (train, test):
        if not len(rows):
            raise ValueError(f"load_data: split '{rows.split}' has no rows")
    labels = {rows.split: rows.labels() for rows in (train, test)}
    largest = max(int(values.max()) for values in labels.values())
    classes = getattr(train.dataset.features[train.label], "num_classes", None) or largest + 1
    for split, values in labels.items():
        wrong = ((values < 0) | (values >= classes)).nonzero().flatten()
        if len(wrong):
            raise ValueError(
                f"load_data: {len(wrong)} rows of split '{split}' have a label outside 0 to {classes - 1}, "
                f"first row {int(wrong[0])}: {int(values[wrong[0]])} in column '{train.label}'"
            )
    return classes
