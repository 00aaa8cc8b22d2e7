"""Made-up images, for smoke runs of recipes and for tests."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import datasets


def made_up_images(size: int, count: int = 32) -> "datasets.DatasetDict":
    """Splits `train` and `test` of `count` images of 4 colours: enough to run a recipe, and to learn something."""
    import datasets
    from PIL import Image

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=4)})
    rng = np.random.default_rng(0)

    def split() -> datasets.Dataset:
        labels = [index % 4 for index in range(count)]
        pixels = [rng.integers(0, 100, (size, size, 3)) + 50 * (np.arange(3) == label) for label in labels]
        images = [Image.fromarray(image.astype("uint8")) for image in pixels]
        return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)

    return datasets.DatasetDict({"train": split(), "test": split()})
