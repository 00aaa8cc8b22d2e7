"""Data sets as loaders of (images, labels) batches: from the Hub or a folder, from tensors, or the bundled digits."""

from .augment import Augmentation
from .batches import Images, batches
from .decode import CorruptImageError
from .digits import digit_images, digits
from .load import ImageData, load_data
from .presets import CIFAR, IMAGENET, KNOWN, TINY_IMAGENET
from .splits import ImageSplit

__all__ = [
    "CIFAR",
    "IMAGENET",
    "KNOWN",
    "TINY_IMAGENET",
    "Augmentation",
    "CorruptImageError",
    "ImageData",
    "ImageSplit",
    "Images",
    "batches",
    "digit_images",
    "digits",
    "load_data",
]
