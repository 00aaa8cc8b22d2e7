"""`TrainingConfig`: the hyper-parameters of A(theta, u), and the optimizers and schedules they choose from."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from types import UnionType

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, MultiStepLR

from .readable import Readable


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Readable):
    """Hyper-parameters of A(theta, u); the defaults are the paper's for CIFAR-100 and Tiny-ImageNet (Section 4.1).

    Args:
        epochs: of the whole training.
        optimizer: a key of OPTIMIZERS.
        learning_rate: at the start.
        momentum: of SGD; the Adams take their usual betas.
        weight_decay: on every parameter, normalization included.
        schedule: a key of SCHEDULES, stepped once an epoch.
        min_learning_rate: where `cosine` ends, as a share of `learning_rate`.
        milestones: shares of `epochs` after which `multistep` multiplies the learning rate by 0.1.
        batch_size: over all processes together, if the accelerator splits batches (split_batches=True); of each process
            otherwise, about which a training by several processes warns.
        max_grad_norm: gradients are clipped to this global norm; None: not at all.
        ema_decay: in [0, 1): the training ends at the exponential moving average of its weights, from the first
            optimizer step on (docs/notes/averaged-weights.md); None: at the last weights.

    Raises:
        ValueError: For an unknown optimizer or schedule, or a number out of range.

    Example:
        >>> from aws_lottery import TrainingConfig
        >>> TrainingConfig(optimizer="adamw", learning_rate=1e-3, schedule="cosine").epochs
        100
    """

    epochs: int = 100
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "multistep"
    min_learning_rate: float = 0.0
    milestones: tuple[float, ...] = (0.5, 0.75)
    batch_size: int = 128
    max_grad_norm: float | None = None
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        for name, rows in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            value = getattr(self, name)
            self._require(isinstance(value, str) and value in rows, name, f"one of {', '.join(rows)}")
        for name, least in (("epochs", 0), ("batch_size", 1)):
            self._require(
                _is_number(value := getattr(self, name), int) and value >= least,
                name,
                f"a whole number, {least} or more",
            )
        for name in ("learning_rate", "momentum", "weight_decay", "min_learning_rate"):
            self._require(_is_number(value := getattr(self, name)) and value >= 0, name, "a number, 0 or more")
        shares = self.milestones
        self._require(
            isinstance(shares, list | tuple) and all(_is_number(share) and 0 <= share <= 1 for share in shares),
            "milestones",
            "shares of the epochs, in [0, 1]",
        )
        limit, decay = self.max_grad_norm, self.ema_decay
        self._require(limit is None or (_is_number(limit) and limit > 0), "max_grad_norm", "a number above 0 or None")
        self._require(decay is None or (_is_number(decay) and 0 <= decay < 1), "ema_decay", "in [0, 1) or None")

    def _require(self, ok: bool, name: str, expected: str) -> None:
        if not ok:
            raise ValueError(f"TrainingConfig: {name} must be {expected}, got {getattr(self, name)!r}")


def _is_number(value: object, kind: type | UnionType = int | float) -> bool:
    """Finite, and not a truth value."""
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)  # type: ignore[arg-type]


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], TrainingConfig], Optimizer]] = {
    "sgd": lambda p, c: SGD(p, c.learning_rate, momentum=c.momentum, weight_decay=c.weight_decay),
    "adam": lambda p, c: Adam(p, c.learning_rate, weight_decay=c.weight_decay),
    "adamw": lambda p, c: AdamW(p, c.learning_rate, weight_decay=c.weight_decay),
}
SCHEDULES: dict[str, Callable[[Optimizer, TrainingConfig], LRScheduler]] = {
    "constant": lambda o, c: LambdaLR(o, lambda epoch: 1.0),
    "multistep": lambda o, c: MultiStepLR(o, [math.ceil(Fraction(str(share)) * c.epochs) for share in c.milestones]),
    "cosine": lambda o, c: CosineAnnealingLR(o, max(c.epochs, 1), c.min_learning_rate * c.learning_rate),
}
