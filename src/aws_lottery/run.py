"""A run in its output folder: settings, checkpoints, metrics, progress, and an orderly end when told to stop."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from tqdm import tqdm

from . import checkpoint
from .training import Training

if TYPE_CHECKING:
    from accelerate import Accelerator


class Interrupted(SystemExit):
    """The run was told to stop (SIGTERM, SIGINT) and has saved a checkpoint. Exit status 128 + signal."""


class Run:
    """Writes run.json, metrics.jsonl and checkpoint.pt; the same settings in the same folder go on where it was."""

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
            total_steps: optimizer steps, for the progress bar.
            resume: False refuses a folder that holds a run.
            checkpoint_seconds: least time between checkpoints of a training under way.
        Raises: CheckpointError if the folder holds another run.
        """
        self.folder, self.model, self.accelerator = Path(folder), model, accelerator
        self.checkpoint_seconds, self.more_state = checkpoint_seconds, more_state
        self.stopping: signal.Signals | None = None
        settings = {
            **settings,
            "mixed_precision": accelerator.mixed_precision,
            "gradient_accumulation_steps": accelerator.gradient_accumulation_steps,
        }
        with accelerator.main_process_first():
            checkpoint.claim(self.folder, settings, resume=resume or not accelerator.is_main_process)
        state = checkpoint.load(self.folder, accelerator) or {}
        self.steps: int = state.get("steps", 0)
        self.training: dict[str, Any] | None = state.get("training")  # the training that was under way
        self.more: Any = state.get("more")  # what more_state gave
        if state:
            model.load_state_dict(state["model"])
        self._cut_metrics(state.get("metrics_bytes", 0))
        self.saved_at = time.monotonic()
        self.progress = tqdm(
            total=total_steps, initial=self.steps, unit=" steps", disable=not accelerator.is_local_main_process
        )

    def after_step(self, training: Training) -> None:
        """To be called after every optimizer step; saves when it is time, and ends when asked to."""
        self.steps += 1
        self.progress.update()
        if self.accelerator.num_processes > 1 and self.steps % 10:
            return  # processes agree on what to do next every tenth step only
        due = time.monotonic() - self.saved_at > self.checkpoint_seconds
        if not self._any(due or self.stopping is not None):
            return
        training.mean_loss()  # raises before anything is saved over
        self.save(training)
        if self._any(self.stopping is not None):
            number = self.stopping or signal.SIGTERM
            self.progress.close()
            self.accelerator.print(
                f"stopped by signal {int(number)} after a checkpoint; the same command goes on from it"
            )
            raise Interrupted(128 + number)

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

    def log(self, metrics: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl, and whatever trackers the accelerator has."""
        self.accelerator.log(dict(metrics), step=self.steps)
        if self.accelerator.is_main_process:
            with self._metrics.open("a") as file:
                file.write(json.dumps(metrics) + "\n")

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """SIGTERM and SIGINT ask for a checkpoint and an orderly end; a second one ends at once."""

        def ask(number: int, frame: object) -> None:
            self.stopping = signal.Signals(number)
            signal.signal(number, before[self.stopping])

        signals = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
        before = {number: signal.signal(number, ask) for number in signals}
        try:
            yield
        finally:
            self.progress.close()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _any(self, mine: bool) -> bool:
        """Whether it is so on any process, known to all."""
        if self.accelerator.num_processes == 1:
            return mine
        flag = torch.tensor(int(mine), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item())  # type: ignore[union-attr]

    @property
    def _metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    def _cut_metrics(self, size: int) -> None:
        """Forget the lines written after the checkpoint: they will be written again."""
        if self.accelerator.is_main_process:
            with self._metrics.open("ab") as file:
                file.truncate(size)
