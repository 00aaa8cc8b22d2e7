"""New optimizer statistics and a new learning-rate schedule for each stage of a search in one `trainer.train()`.

A callback can't replace the Trainer's optimizer and schedule, as others hold references to them. So the optimizer is
emptied in place, and the schedule becomes a function of the step that starts anew with every stage.
"""

import copy
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainingArguments, get_scheduler

from ..config import SignedMaskConfig

_OF_OTHERS = ("params", "lr", "initial_lr")  # entries of a group that belong to the model and to the schedule


def stage_epochs(config: SignedMaskConfig, solution_epochs: int) -> list[int]:
    """Epochs of the warm-up, of each round, and of the solution if there are any."""
    rounds = [config.epochs_per_round] * (config.rounds or 0)
    return [config.warmup_epochs, *rounds, *([solution_epochs] if solution_epochs else [])]


def stage_of(epoch: int, epochs: Sequence[int]) -> int:
    """The stage that trains in `epoch`, counted from 0, of stages that take `epochs` each."""
    return sum(epoch >= end for end in accumulate(epochs))


def group_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The settings of the parameter groups, for `renew_`: some optimizers (schedule-free ones) keep counters there."""
    return [
        {name: copy.deepcopy(value) for name, value in group.items() if name not in _OF_OTHERS}
        for group in optimizer.param_groups
    ]


def renew_(optimizer: Optimizer, settings: Sequence[dict[str, Any]]) -> None:
    """Reset `optimizer` to the state of a new one, except its learning rate, which the schedule sets."""
    optimizer.state.clear()
    for group, values in zip(optimizer.param_groups, settings, strict=True):
        group.update(copy.deepcopy(values))


def restart_in_every_stage_(scheduler: Any, args: TrainingArguments, epochs: Sequence[int], steps: int) -> None:
    """Make the Trainer's `scheduler` run over each stage as over a training of that length.

    Args:
        scheduler: made by the Trainer of `args`, at any step.
        epochs: of each stage.
        steps: optimizer steps of the whole search.
    Raises: ValueError if it is not what `args` describe, or of a kind that can't restart (`reduce_lr_on_plateau`).
    """
    whole = _schedule(args, steps)
    if type(scheduler) is not LambdaLR or whole is None:
        raise ValueError(
            f"a search starts the schedule anew in each of its stages, which {type(scheduler).__name__} "
            f"(lr_scheduler_type={args.lr_scheduler_type!r}) can't do; the paper's stages have a constant rate: "
            "TrainingArguments(lr_scheduler_type='constant')"
        )
    sample = {0, 1, steps // 3, steps // 2, steps - 1}
    if any(abs(f(step) - whole(step)) > 1e-9 for f in scheduler.lr_lambdas for step in sample):
        raise ValueError(
            "the learning-rate schedule is not the one that the TrainingArguments describe; a search makes one for "
            "each of its stages from lr_scheduler_type, warmup_steps and lr_scheduler_kwargs: give these, and "
            "Trainer(optimizers=(optimizer, None)) if the optimizer is your own"
        )
    factor = _by_stage(args, [steps * stage // sum(epochs) for stage in epochs])
    scheduler.lr_lambdas = [factor] * len(scheduler.lr_lambdas)
    for group, base in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, strict=True):
        group["lr"] = base * factor(scheduler.last_epoch)


def _by_stage(args: TrainingArguments, lengths: Sequence[int]) -> Callable[[int], float]:
    """The schedule of each stage, one after another, as a function of the step; `lengths` are in steps."""
    starts = [0, *accumulate(lengths)][:-1]
    schedules = {length: _schedule(args, length) for length in set(lengths) if length}

    def factor(step: int) -> float:
        stage = min(bisect_right(starts, step) - 1, len(starts) - 1)
        while not lengths[stage]:  # a last stage without epochs
            stage -= 1
        schedule = schedules[lengths[stage]]
        assert schedule is not None
        return schedule(step - starts[stage])

    return factor


def _schedule(args: TrainingArguments, steps: int) -> Callable[[int], float] | None:
    """Step -> share of the learning rate, over a training of `steps`; None if it is no function of the step."""
    optimizer = SGD([torch.zeros(1)], lr=args.learning_rate)
    made = get_scheduler(
        args.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=args.get_warmup_steps(steps),
        num_training_steps=steps,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,  # type: ignore[arg-type]
    )
    return made.lr_lambdas[0] if type(made) is LambdaLR else None
