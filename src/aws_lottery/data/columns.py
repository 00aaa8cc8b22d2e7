"""Which columns hold images and labels, and which splits are for training and testing, by the rules stated here."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features

IMAGE_NAMES = ("image", "img")
LABEL_NAMES = ("label", "labels", "fine_label")
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "validation", "valid", "val")
OF_LABELS = (
    "; strings become labels by dataset.class_encode_column(...), "
    "a folder of images has them if it has a folder for each of two or more classes (train/cat/1.png)"
)


def image_column(features: "Features", name: str | None = None) -> str:
    """The column of type Image; if there are several, the one called `image` or `img`.

    Raises: ValueError that lists the columns if none or several fit.
    """
    from datasets import Image

    images = [column for column, feature in features.items() if isinstance(feature, Image)]
    return _choose("image", name, images, IMAGE_NAMES, features)


def label_column(features: "Features", name: str | None = None) -> str:
    """The column of type ClassLabel; if there are several, or only integers, the one with a name of LABEL_NAMES.

    Raises: ValueError that lists the columns if none or several fit.
    """
    from datasets import ClassLabel

    typed = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    whole = [column for column, feature in features.items() if "int" in str(getattr(feature, "dtype", ""))]
    usual = typed or [column for column in whole if column in LABEL_NAMES]
    return _choose("label", name, usual if name is None else whole, LABEL_NAMES, features)


def _choose(what: str, name: str | None, fitting: list[str], usual: tuple[str, ...], features: "Features") -> str:
    chosen = fitting if name is None else [column for column in fitting if column == name]
    if len(chosen) > 1:
        chosen = [column for column in chosen if column in usual]
    if len(chosen) == 1:
        return chosen[0]
    problem = f"'{name}' won't do" if name else "none stands out" if fitting else "none found"
    columns = ", ".join(f"{column}: {_describe(feature)}" for column, feature in features.items())
    hint = OF_LABELS if what == "label" else ""
    raise ValueError(f"load_data: {what} column: {problem} among {columns}; give {what}={hint}")


def _describe(feature: Any) -> str:
    kind = type(feature).__name__
    return str(feature.dtype) if kind == "Value" else kind


def find_splits(
    parts: "DatasetDict", label: str, *, train: str | None = None, test: str | None = None
) -> tuple[str, str | None]:
    """Names of the splits to train on and to measure on.

    Train is `train` or `training`. Test is the first of test, validation, valid, val that has labels (where they are
    secret, they are -1: ImageNet's test); None if there is none of these.
    Raises: ValueError that lists the splits.
    """
    train = train or next((name for name in TRAIN_NAMES if name in parts), None)
    test = test or next((name for name in TEST_NAMES if name in parts and _labelled(parts[name], label)), None)
    for what, name in (("train_split", train), ("test_split", test)):
        if name not in parts and (name is not None or what == "train_split"):
            raise ValueError(
                f"load_data: {what}: {name or TRAIN_NAMES[0]!r} not found; there is {splits_text(parts)}; give {what}="
            )
    assert train is not None
    return train, test


def splits_text(parts: "DatasetDict") -> str:
    """`train (120 rows), test (36 rows)`."""
    return ", ".join(f"{split} ({len(part)} rows)" for split, part in parts.items())


def _labelled(part: "Dataset", label: str) -> bool:
    return len(part) > 0 and part.select_columns(label)[0][label] not in (-1, None)
