"""BatchNorm's statistics before a Trainer uses them: re-estimated on its training data, the same on all processes.

Nothing here has an effect on the Trainer's training.
"""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerControl, TrainingArguments

from ..evaluation import recalibrate
from ..processes import share_buffers_
from ..random_states import aside


def settle_statistics_(
    model: nn.Module, args: TrainingArguments, control: TrainerControl, train_dataloader: Any = None
) -> None:
    """To be called where the Trainer may evaluate or save next, on all processes; `control` says what it will do.

    Args:
        train_dataloader: what they are re-estimated on before an evaluation; None: they stay as training left them.
    """
    if control.should_evaluate and train_dataloader is not None:
        recalibrate_on(model, train_dataloader, batch_size=args.per_device_train_batch_size)
    if control.should_evaluate or control.should_save:
        share_buffers_(model, PartialState())


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
