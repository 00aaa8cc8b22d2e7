"""A run in its output folder: settings, checkpoints, metrics, progress, and an orderly end when told to stop."""

import json
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from tqdm import tqdm

from ..processes import any_process
from ..training import Training
from . import checkpoint
from .lock import locked

if TYPE_CHECKING:
    from accelerate import Accelerator


ESTIMATE_AFTER = 5, 20.0  # steps and seconds after the first step, which compiles


class Interrupted(SystemExit):
    """The run was told to stop (SIGTERM, SIGINT) and has saved a checkpoint. Exit status 128 + signal."""


class Run:
    """Writes run.json, metrics.jsonl and checkpoint.pt; the same settings in the same folder go on where it was.

    To be used in a `with` block: SIGTERM and SIGINT ask in it for a checkpoint and an orderly end, a second one ends at
    once; the folder is free again after it.
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
    ):
        """Claim the folder, and load its checkpoint into `model` if there is one.

        Args:
            settings: plain data; what a resumed run must have in common with this one.
            model: bare, on its device; its state and `more_state()` go into every checkpoint.
            total_steps: optimizer steps, for the progress bar and the estimate of the hours.
            resume: False refuses a folder that holds a run.
            checkpoint_seconds: least time between checkpoints of a training under way.
        Raises: CheckpointError if the folder holds another run; Busy if a run is under way in it.
        """
        self.folder, self.model, self.accelerator = Path(folder), model, accelerator
        self.checkpoint_seconds, self.more_state = checkpoint_seconds, more_state
        self.stopping: signal.Signals | None = None
        settings = {
            **settings,
            "mixed_precision": accelerator.mixed_precision,
            "gradient_accumulation_steps": accelerator.gradient_accumulation_steps,
        }
        self._lock = ExitStack()
        self._lock.enter_context(locked(self.folder / ".lock", accelerator))
        try:
            with accelerator.main_process_first():
                checkpoint.claim(self.folder, settings, resume=resume or not accelerator.is_main_process)
            state = checkpoint.load(self.folder, accelerator) or {}
        except checkpoint.CheckpointError:
            self._lock.close()
            raise
        self.steps: int = state.get("steps", 0)
        self.training: dict[str, Any] | None = state.get("training")  # the training that was under way
        self.more: Any = state.get("more")  # what more_state gave
        if state:
            model.load_state_dict(state["model"])
        self._cut_metrics(state.get("metrics_bytes", 0))
        self.saved_at = time.monotonic()
        self.total_steps, self.cost = total_steps, {}
        self._since: tuple[int, float] | None = None  # this process's first step, and when it was done
        self._estimated = False
        self.progress = tqdm(
            total=total_steps, initial=self.steps, unit=" steps", disable=not accelerator.is_local_main_process
        )

    def after_step(self, training: Training) -> None:
        """To be called after every optimizer step; saves when it is time, and ends when asked to."""
        self.steps += 1
        self.progress.update()
        self._estimate()
        if self.accelerator.num_processes > 1 and self.steps % 10:
            return  # processes agree on what to do next every tenth step only
        due = time.monotonic() - self.saved_at > self.checkpoint_seconds
        if not any_process(due or self.stopping is not None, self.accelerator):
            return
        training.mean_loss()  # raises before anything is saved over
        self.save(training)
        if any_process(self.stopping is not None, self.accelerator):
            number = self.stopping or signal.SIGTERM
            self.progress.close()
            self.accelerator.print(
                f"stopped by signal {int(number)} after a checkpoint; the same command goes on from it"
            )
            raise Interrupted(128 + number)

    def after_training(self, training: Training) -> None:
        """To be called at the end of a training; `cost` is then what it cost."""
        self.cost = training.cost()

    def _estimate(self) -> None:
        """Say once how long it all takes."""
        self._since = self._since or (self.steps, time.monotonic())
        steps, seconds = self.steps - self._since[0], time.monotonic() - self._since[1]
        if self._estimated or steps < ESTIMATE_AFTER[0] or seconds < ESTIMATE_AFTER[1]:
            return
        self._estimated, hours = True, seconds / steps / 3600
        if self.accelerator.is_main_process:
            self.progress.write(
                f"about {hours * self.total_steps:.1f} hours for all {self.total_steps:,} steps, "
                f"{hours * (self.total_steps - self.steps):.1f} of them left; measuring not counted"
            )

    def save(self, training: Training | None = None) -> None:
        """Write a checkpoint; `training` is under way, None between two trainings. Every process has to call it."""
        state = {
            "model": self.model.state_dict(),
            "training": None if training is None else training.state_dict(),
            "more": self.more_state(),
            "steps": self.steps,
            "metrics_bytes": self._metrics.stat().st_size if self._metrics.exists() else 0,
        }
        checkpoint.save(self.folder, state, self.accelerator)
        self.saved_at = time.monotonic()

    def remove_checkpoint(self) -> None:
        """For a run whose result is kept elsewhere."""
        checkpoint.remove(self.folder)

    def log(self, metrics: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl, and whatever trackers the accelerator has."""
        self.accelerator.log(dict(metrics), step=self.steps)
        if self.accelerator.is_main_process:
            with self._metrics.open("a") as file:
                file.write(json.dumps(metrics) + "\n")

    def __enter__(self) -> "Run":
        in_main_thread = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGTERM, signal.SIGINT) if in_main_thread else ()
        self._handlers = {number: signal.signal(number, self._ask) for number in signals}
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._lock.close()

    def _ask(self, number: int, frame: object) -> None:
        self.stopping = signal.Signals(number)
        signal.signal(number, self._handlers[self.stopping])

    @property
    def _metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    def _cut_metrics(self, size: int) -> None:
        """Forget the lines written after the checkpoint: they will be written again."""
        if self.accelerator.is_main_process:
            with self._metrics.open("ab") as file:
                file.truncate(size)
