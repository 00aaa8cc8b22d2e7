"""Hyper-parameters as data, by data set and network: the paper's (Section 4.1), and the released code's that differ."""

from dataclasses import dataclass, replace

from .training import TrainingConfig


@dataclass(frozen=True)
class Settings:
    """How a network is searched and trained in the paper; the rounds are those of the released scripts."""

    warmup_epochs: int
    epochs_per_round: int
    rounds: int
    final: TrainingConfig  # of the final training; the search has its optimizer and batch size, at a constant rate

    @property
    def search(self) -> TrainingConfig:
        return replace(self.final, schedule="constant")


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

# the protocol "released-code": 100 epochs for every network, and the Mixer's cosine ends above 0
IMAGENET_RELEASED_CODE = {
    name: replace(row, final=replace(row.final, epochs=100, min_learning_rate=1e-3 if name == "mlp_mixer" else 0.0))
    for name, row in IMAGENET.items()
}

RECIPES = {"small": SMALL_IMAGES, "imagenet": IMAGENET, "imagenet-released-code": IMAGENET_RELEASED_CODE}
