"""A run in its output folder: settings, checkpoints, metrics, progress, and an orderly end after a signal."""

import logging
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..atomic import remove_leftovers
from ..processes import any_process, by_first, together
from ..training import Training
from . import checkpoint
from .lock import locked
from .metrics_log import write_metrics
from .progress import Progress
from .signals import Interrupted, StopRequest

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)


class Run:
    """Writes run.json, metrics.jsonl and checkpoint.pt; the same settings in the same folder go on where it was.

    To be used in a `with` block, at whose start the checkpoint is loaded if there is one. SIGTERM and SIGINT ask in it
    for a checkpoint and an orderly end, a second one ends at once; the folder is free again after it. A run that ends
    before any step is in a checkpoint, by an error or killed, leaves the folder to other settings, too.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, Any],
        model: nn.Module,
        accelerator: "Accelerator",
        *,
        total_steps: int,
        resume: bool = True,
        checkpoint_seconds: float = 300.0,
        more_state: Callable[[], Any] = lambda: None,
        may_go_on: Callable[[Mapping[str, Any], Mapping[str, Any]], bool] = lambda there, now: False,
    ):
        """Args:
        settings: plain data; what a resumed run must have in common with this one.
        model: unwrapped, on its device; its state and `more_state()` go into every checkpoint.
        total_steps: optimizer steps, for the progress bar and the estimate of the hours.
        resume: False refuses a folder that holds a run.
        checkpoint_seconds: least time between checkpoints of a training under way.
        may_go_on: whether a run with other settings goes on with these (`checkpoint.claim`).
        """
        self.folder, self.model, self.accelerator = Path(folder), model, accelerator
        self.settings = {
            **settings,
            "mixed_precision": accelerator.mixed_precision,
            "gradient_accumulation_steps": accelerator.gradient_accumulation_steps,
        }
        self.total_steps, self.resume = total_steps, resume
        self.checkpoint_seconds, self.more_state = checkpoint_seconds, more_state
        self.may_go_on = may_go_on
        self.cost: dict[str, float] = {}  # of the last training that ended
        self.metrics: list[dict[str, Any]] = []
        self.steps = self.saved_steps = 0  # in all, and in the last checkpoint
        self.is_new = False  # whether this process has just made the folder a run's
        self.training: dict[str, Any] | None = None  # the training that was under way
        self.more: Any = None  # what more_state gave

    def __enter__(self) -> "Run":
        """Claim the folder, and load its checkpoint into the model if there is one.

        Raises: CheckpointError if the folder holds another run, a damaged checkpoint or too little room for the next
            one; Busy if a run is under way in it; OSError if it can't be written. Always on all processes.
        """
        with ExitStack() as stack:
            stack.enter_context(locked(self.folder / ".lock", self.accelerator))
            by_first(self._claim, self.accelerator)
            state = checkpoint.load(self.folder, self.accelerator, like=self.model.parameters())
            with together(self.accelerator):
                self._load(state)
            self.stop = stack.enter_context(StopRequest())
            self.progress = stack.enter_context(Progress(self.total_steps, self.steps, self.accelerator))
            self._open = stack.pop_all()
        self.saved_at = time.monotonic()
        return self

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        if kind is not None and self.is_new and not self.saved_steps:
            checkpoint.release(self.folder)
        self._open.close()
        if kind is None:
            self._end_if_asked("at its end")

    def after_step(self, training: Training) -> None:
        """To be called after every optimizer step; saves when it is time, and ends when asked to."""
        self.steps += 1
        self.progress.step(training)
        if self.accelerator.num_processes > 1 and self.steps % 10:
            return  # processes agree on what to do next every tenth step only
        due = time.monotonic() - self.saved_at > self.checkpoint_seconds
        if not any_process(due or self.stop.signal is not None, self.accelerator):
            return
        training.mean_loss()  # raises before anything is saved over
        self.save(training)
        self._end_if_asked("after a checkpoint; the same command goes on from it")

    def after_training(self, training: Training) -> None:
        """To be called at the end of a training; `cost` is then what it cost."""
        self.cost = training.cost()

    def save(self, training: Training | None = None) -> None:
        """Write a checkpoint; `training` is under way, None between two trainings. Every process has to call it."""
        state = {
            "model": self.model.state_dict(),
            "training": None if training is None else training.state_dict(),
            "more": self.more_state(),
            "steps": self.steps,
            "metrics": self.metrics,
        }
        checkpoint.save(self.folder, state, self.accelerator)
        self.saved_steps = self.steps
        self.saved_at = time.monotonic()

    def remove_checkpoint(self) -> None:
        """For a run whose result is in files of its own."""
        by_first(partial(checkpoint.remove, self.folder), self.accelerator)

    def keep_for_more(self) -> None:
        """For a run that is done, and may go on one day: its last checkpoint stays. A disk without room for it takes
        nothing from the result."""
        try:
            self.save()
        except checkpoint.CheckpointError as error:
            logger.warning("this search can't go on for more rounds from here later: %s", error)
            return self.remove_checkpoint()
        by_first(partial(checkpoint.remove, self.folder, keep_last=True), self.accelerator)

    def log(self, metrics: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl, and whatever trackers the accelerator has."""
        self.accelerator.log(dict(metrics), step=self.steps)
        self.metrics.append(dict(metrics))
        by_first(partial(write_metrics, self.folder, self.metrics), self.accelerator)

    def _claim(self) -> None:
        for place in (self.folder, *self.folder.glob("round-*")):
            remove_leftovers(place)
        self.is_new = not (self.folder / checkpoint.SETTINGS_FILE).exists()
        checkpoint.claim(self.folder, self.settings, resume=self.resume, may_go_on=self._may_go_on)
        state = sum(value.nbytes for value in self.model.state_dict().values())
        needed, free = 2 * state, shutil.disk_usage(self.folder).free  # at least: the weights and a moment of them
        if free < needed:
            raise checkpoint.CheckpointError(
                f"{self.folder} has room for {free:,} bytes, the next checkpoint needs at least {needed:,}; "
                "make room, or take an output folder on another disk"
            )

    def _may_go_on(self, there: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
        """As the function that was given; and in the folder of a run that was killed before it had done anything."""
        if self.may_go_on(there, now):
            return True
        is_of_a_run = "mixed_precision" in there  # not of a comparison, under way without a lock
        if not (is_of_a_run and checkpoint.holds_nothing(self.folder)):
            return False
        logger.info("%s held a run with other settings that had not done anything yet: it begins anew", self.folder)
        checkpoint.remove(self.folder)
        self.is_new = True
        return True

    def _load(self, state: Mapping[str, Any] | None) -> None:
        if state is None:
            return
        self.steps, self.training, self.more = state["steps"], state["training"], state["more"]
        self.metrics, self.saved_steps = state["metrics"], self.steps
        self.model.load_state_dict(state["model"])
        if self.accelerator.is_main_process:
            write_metrics(self.folder, self.metrics)  # without lines of after the checkpoint: they come again

    def _end_if_asked(self, where: str) -> None:
        if any_process(self.stop.signal is not None, self.accelerator):
            number = self.stop.signal or signal.SIGTERM
            self.progress.bar.close()
            self.accelerator.print(f"stopped by signal {int(number)} {where}")
            raise Interrupted(128 + number)
