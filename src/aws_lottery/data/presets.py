"""What the paper does with the data sets it uses, as rows; and with others that are about as large."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .augment import Augmentation
from .splits import Triple

CIFAR = Augmentation(size=32, padding=4)
TINY_IMAGENET = Augmentation(size=64, scale=(0.5, 1.0))
IMAGENET = Augmentation(size=224, scale=(0.08, 1.0), resize=256)


@dataclass(frozen=True)
class Known:
    """What is published about a data set: augmentation (Section 4.1), mean and standard deviation of its pixels."""

    augmentation: Augmentation
    mean: Triple
    std: Triple
    # protocol -> mean and standard deviation that it takes instead
    pixels_under: Mapping[str, tuple[Triple, Triple]] = field(default_factory=dict)

    def pixels(self, protocol: str) -> tuple[Triple, Triple]:
        """Mean and standard deviation of the pixels, as a protocol has them."""
        return self.pixels_under.get(protocol, (self.mean, self.std))


_CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
_IMAGENET_PIXELS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KNOWN = {
    "cifar10": Known(CIFAR, _CIFAR10_MEAN, (0.2470, 0.2435, 0.2616)),
    "cifar100": Known(
        CIFAR,
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        {"released-code": (_CIFAR10_MEAN, (0.2023, 0.1994, 0.2010))},  # these deviations are widely used for CIFAR-10
    ),
    "tinyimagenet": Known(TINY_IMAGENET, *_IMAGENET_PIXELS),  # as the released code
    "imagenet1k": Known(IMAGENET, *_IMAGENET_PIXELS),
}


def known(name: str) -> Known | None:
    """The row of a data set called so, whatever its capitals and hyphens."""
    return KNOWN.get(re.sub(r"[^a-z0-9]", "", name.lower()))


def augmentation_for(side: int) -> Augmentation:
    """The paper's augmentation of the data set whose images are about as large as these, `side` pixels."""
    if side > 96:
        return IMAGENET
    return replace(CIFAR if side <= 48 else TINY_IMAGENET, size=side)
