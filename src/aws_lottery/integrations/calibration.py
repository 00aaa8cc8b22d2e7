"""BatchNorm statistics re-estimated on the data that a Trainer trains on, without a trace in its training."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from ..evaluation import recalibrate
from ..random_states import aside


def recalibrate_on(model: nn.Module, train_dataloader: Any, *, batch_size: int) -> None:
    """`recalibrate` on training batches of one seeded order, the same on every process.

    The Trainer's own loader is left alone, and so are the random states, so a search that is measured along its way
    is, bit for bit, the search that is not.
    """
    with aside(seed=0):
        recalibrate(model, _batches(train_dataloader, batch_size))


def _batches(train_dataloader: Any, batch_size: int) -> Iterator[Any]:
    """A generator, so that a model without BatchNorm reads nothing."""
    yield from DataLoader(
        train_dataloader.dataset,
        batch_size=batch_size,
        shuffle=True,
        collate_fn=train_dataloader.collate_fn,
        generator=torch.Generator().manual_seed(0),
    )
