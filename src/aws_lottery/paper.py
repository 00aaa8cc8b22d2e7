"""Every number of the paper: its hyper-parameters (Section 4.1), and what it reports (Table 2), to set results beside.

Table 2 is ImageNet top-1 accuracy in percent, mean and standard deviation of 3 trials. The paper labels its rows by the
share of prunable weights that remain, rounded up from 0.8^t; here they go by the round t.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

from .training_config import TrainingConfig

PAPER = "Find A Winning Sign: Sign Is All We Need to Win the Lottery (ICLR 2025)"
SOURCE = "Table 2, ImageNet top-1 in %, mean and std of 3 trials"


class Reported(NamedTuple):
    mean: float
    std: float


DENSE = {
    "ResNet-50": Reported(75.26, 0.27),
    "MobileNetV2": Reported(69.42, 0.41),
    "MLP-Mixer": Reported(59.57, 0.12),
}
COLUMNS = (("lrr", "solution"), ("aws", "solution"), ("lrr", "signs"), ("aws", "signs"))  # of TABLE_2
TABLE_2 = {  # (network, round)
    ("ResNet-50", 6): ((75.11, 0.27), (74.48, 0.16), (73.20, 0.21), (74.65, 0.20)),
    ("ResNet-50", 7): ((74.92, 0.10), (74.06, 0.18), (72.96, 0.20), (74.28, 0.19)),
    ("ResNet-50", 8): ((74.62, 0.12), (73.76, 0.26), (72.46, 0.18), (73.99, 0.23)),
    ("ResNet-50", 9): ((74.58, 0.25), (73.63, 0.21), (71.94, 0.22), (73.65, 0.12)),
    ("MobileNetV2", 4): ((69.25, 0.33), (68.75, 0.22), (67.99, 0.11), (68.66, 0.24)),
    ("MobileNetV2", 5): ((68.88, 0.18), (68.13, 0.32), (67.01, 0.19), (68.04, 0.28)),
    ("MobileNetV2", 6): ((68.36, 0.20), (67.39, 0.24), (64.92, 0.25), (67.11, 0.16)),
    ("MobileNetV2", 7): ((67.76, 0.17), (66.17, 0.20), (64.03, 0.21), (66.02, 0.29)),
    ("MLP-Mixer", 7): ((59.18, 0.26), (59.23, 0.18), (57.54, 0.30), (59.17, 0.19)),
    ("MLP-Mixer", 8): ((58.95, 0.21), (59.01, 0.21), (57.21, 0.21), (58.93, 0.19)),
    ("MLP-Mixer", 9): ((58.83, 0.23), (58.79, 0.24), (57.09, 0.19), (58.73, 0.25)),
    ("MLP-Mixer", 10): ((58.61, 0.23), (58.77, 0.11), (56.91, 0.21), (58.62, 0.35)),
}


def reported(
    architecture: str, dataset: str, *, method: str | None, rounds: int | None, prune_rate: float = 0.2
) -> dict[str, Reported]:
    """What the paper reports for a search: `dense`, `solution` and `signs` -> figure; empty if it has no such search.

    Args:
        architecture: its first word names the network: `ResNet-50 (transformers)`, `mlp-mixer`.
        dataset: ImageNet by its name or by its id on the Hub.
        method: None for the dense network alone.
    """
    network = {_plain(name): name for name in DENSE}.get(_plain(architecture.split(" ")[0]))
    if network is None or _plain(dataset.split("/")[-1]) not in ("imagenet", "imagenet1k"):
        return {}
    line = TABLE_2.get((network, rounds or 0)) if prune_rate == 0.2 else None
    sparse = {what: Reported(*figure) for (by, what), figure in zip(COLUMNS, line or (), strict=False) if by == method}
    return {"dense": DENSE[network], **sparse} if sparse or method is None else {}


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


@dataclass(frozen=True)
class Settings:
    """How a network is searched and trained in the paper; the rounds are those of the released scripts."""

    warmup_epochs: int
    epochs_per_round: int
    rounds: int
    final: TrainingConfig  # of the final training
    prune_rate: float = 0.2
    own_search: TrainingConfig | None = None  # None: the optimizer and batch size of `final`, at a constant rate

    @property
    def search(self) -> TrainingConfig:
        return self.own_search or replace(self.final, schedule="constant")


_SGD = TrainingConfig(epochs=100, learning_rate=0.1, weight_decay=5e-4, batch_size=128, schedule="multistep")
_ADAM = TrainingConfig(
    epochs=120, optimizer="adam", learning_rate=1e-3, weight_decay=1e-5, batch_size=256, schedule="cosine"
)
_SMALL = Settings(warmup_epochs=10, epochs_per_round=10, rounds=15, final=_SGD)
_LARGE = Settings(warmup_epochs=20, epochs_per_round=5, rounds=10, final=_ADAM)

SMALL_IMAGES = {
    "resnet50": _SMALL,
    "mobilenetv2": replace(_SMALL, final=replace(_SGD, learning_rate=0.05)),
    "shufflenet": _SMALL,
    "efficientnet_b0": _SMALL,
    "vgg11_bn": _SMALL,
    "resnet32": _SMALL,
    "resnet18": _SMALL,  # not in the paper
    "resnet20": _SMALL,  # not in the paper
    "resnet8": _SMALL,  # not in the paper
}
IMAGENET = {
    "resnet50": _LARGE,
    "mobilenetv2": replace(
        _LARGE, final=replace(_ADAM, optimizer="sgd", learning_rate=0.05, weight_decay=5e-5, momentum=0.9)
    ),
    "mlp_mixer": replace(_LARGE, final=replace(_ADAM, epochs=200, weight_decay=5e-5, batch_size=512)),
}

# the protocol "released-code": 100 epochs, and a cosine that ends at 1e-3 of the rate, for every network
IMAGENET_RELEASED_CODE = {
    name: replace(settings, final=replace(settings.final, epochs=100, min_learning_rate=1e-3))
    for name, settings in IMAGENET.items()
}

# Gem-Miner as its authors' public code has it for ResNet-32, CIFAR-100 and 0.05 remaining: lambda 5e-6, 29 freezes in
# 150 epochs, fine-tuning at 0.01; the rest of the fine-tuning as the paper trains all others
GEM_MINER = Settings(
    warmup_epochs=5,
    epochs_per_round=5,
    rounds=29,
    prune_rate=0.0981,  # 1 - 0.05^(1/29)
    own_search=replace(_SGD, epochs=150, weight_decay=1e-5, schedule="cosine"),
    final=replace(_SGD, learning_rate=0.01),
)
OF_METHOD = {"gm": GEM_MINER}  # methods with hyper-parameters of their own, whatever the network

RECIPES = {"small": SMALL_IMAGES, "imagenet": IMAGENET, "imagenet-released-code": IMAGENET_RELEASED_CODE}
