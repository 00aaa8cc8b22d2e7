"""Re-estimating BatchNorm statistics on a Trainer's training data, without any effect on its training."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from ..evaluation import recalibrate
from ..random_states import aside


def recalibrate_on(model: nn.Module, train_dataloader: Any, *, batch_size: int) -> None:
    """`recalibrate` on training batches of one seeded order, the same on every process.

    The Trainer's own loader and the random states stay as they are. So a search that is measured between its stages
    equals, bit for bit, a search that is not.
    """
    with aside(seed=0):
        recalibrate(model, _batches(train_dataloader, batch_size))


def _batches(train_dataloader: Any, batch_size: int) -> Iterator[Any]:
    """Batches; a generator, so that for a model without BatchNorm nothing is read."""
    yield from DataLoader(
        train_dataloader.dataset,
        batch_size=batch_size,
        shuffle=True,
        collate_fn=train_dataloader.collate_fn,
        generator=torch.Generator().manual_seed(0),
    )
