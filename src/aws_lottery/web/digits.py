"""Fresh perceptrons on the handwritten digits under a mask and without it, trained an epoch at a time to be watched."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from torch import nn

from ..data import Images, digit_images
from ..evaluation import accuracy_of
from ..mask import SignedMask
from ..models.perceptron import fresh_perceptron
from ..parameters.fitting import fit
from ..training import Training, train
from ..training_config import TrainingConfig
from ..transfers import TRANSFERS, transfer_

STARTS = ("signs", "mask", "dense")  # rows of TRANSFERS
MAX_EPOCHS = 20
BATCH_SIZE = 64


@dataclass
class Curve:
    """Test accuracies in percent of one network: before training, then after each epoch.

    Args:
        start: a row of TRANSFERS.
        accuracies: as many as were measured so far.
    """

    start: str
    accuracies: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        return TRANSFERS[self.start].condition


def misfit(mask: SignedMask) -> str | None:
    """Why the mask is not for the perceptron of the digits; None if it is."""
    try:
        fit(mask, fresh_perceptron(seed=0))
    except ValueError as error:
        return str(error)
    return None


def watch(mask: SignedMask, *, seed: int, epochs: int) -> Iterator[list[Curve]]:
    """Train one fresh initialization from each of STARTS, all an epoch, then all the next.

    Yields: the curves so far, after each epoch of each network and, first, before any training. A mask without signs
        leaves out the start from its signs.
    Raises: ValueError if the mask does not fit, or if `epochs` or `seed` is out of range.
    """
    from accelerate import Accelerator

    if not 1 <= epochs <= MAX_EPOCHS or not 0 <= seed < 2**32:
        raise ValueError(f"epochs must be in 1..{MAX_EPOCHS} and seed in 0..2^32-1, got {epochs} and {seed}")
    if why := misfit(mask):
        raise ValueError(why)
    accelerator = Accelerator(cpu=True)  # the network is too small for a device to be quicker
    starts = [start for start in STARTS if mask.signed or start != "signs"]
    networks = [_Network(start, mask, seed, epochs, accelerator) for start in starts]
    curves = [network.curve for network in networks]
    for epoch in range(epochs + 1):
        for network in networks:
            network.train_until(epoch)
            yield curves


class _Network:
    """A network whose training stops after each epoch."""

    def __init__(self, start: str, mask: SignedMask, seed: int, epochs: int, accelerator: Any):
        self.curve, self.seed, self.accelerator = Curve(start), seed, accelerator
        self.config = TrainingConfig(epochs=epochs, batch_size=BATCH_SIZE)
        self.model: nn.Module = fresh_perceptron(seed)
        self.state: dict[str, Any] | None = None
        transfer_(self.model, TRANSFERS[start], mask, seed=seed)

    def train_until(self, epoch: int) -> None:
        """Train on, if `epoch` is not 0, to the end of that epoch, and measure."""
        data = _digits("train")
        if epoch:
            train(
                self.model,
                data,
                self.config,
                accelerator=self.accelerator,
                seed=self.seed,
                resume=self.state,
                until=epoch,
                on_end=self._keep,
            )
        accuracy = accuracy_of(
            self.model, _digits("test"), train_data=data, batch_size=BATCH_SIZE, accelerator=self.accelerator
        )
        self.curve.accuracies.append(accuracy)

    def _keep(self, training: Training) -> None:
        self.state = training.state_dict()


@lru_cache
def _digits(split: str) -> Images:
    return digit_images(split)
