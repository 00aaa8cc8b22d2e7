"""How far a run is: one bar over all its steps, a line for each stage that is done, an estimate of the time."""

import math
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..summaries import duration_text

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..training import Training

ESTIMATE_AFTER = 5, 20.0  # steps and seconds after the first step, which compiles
LOSS_EVERY = 1.0  # seconds: to read a loss is to wait for the device
BAR = "{desc} {percentage:3.0f}%|{bar}| {remaining} left"


class Progress:
    """Steps of a run, those before it was resumed among them; shown by one process of each machine.

    The bar is for terminals: where stderr is a file there is none, and the lines of the stages tell how far it is.
    """

    def __init__(self, total_steps: int, done: int, accelerator: "Accelerator"):
        self.total_steps, self.steps, self.accelerator = total_steps, done, accelerator
        self._since: tuple[int, float] | None = None  # this process's first step, and when it was done
        self._estimated = False
        self._stage, self._epoch, self._loss, self._accuracy = "", "", "", ""
        self._loss_read = 0.0
        hidden = not (accelerator.is_local_main_process and sys.stderr.isatty())
        self.bar = tqdm(total=total_steps, initial=done, bar_format=BAR, dynamic_ncols=True, disable=hidden)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def stage(self, name: str) -> None:
        """What comes now, such as `round 3/15  0.5120 remaining`; without one the bar tells the epoch."""
        self._stage, self._loss = name, ""
        self._describe()

    def step(self, training: "Training") -> None:
        """Count an optimizer step."""
        self.steps += 1
        self._read_loss(training)
        self.bar.update()
        self._since = self._since or (self.steps, time.monotonic())
        steps, seconds = self.steps - self._since[0], time.monotonic() - self._since[1]
        if not self._estimated and steps >= ESTIMATE_AFTER[0] and seconds >= ESTIMATE_AFTER[1]:
            self._estimated = True
            self._estimate(seconds / steps)

    def stage_done(self, metrics: Mapping[str, Any]) -> None:
        """What was measured of the stage: a line above the bar, and the accuracy in it from now on."""
        if "accuracy" in metrics:
            self._accuracy = f"  accuracy {metrics['accuracy']:.2f}"
        loss = f"  loss {metrics['loss']:.4f}" if math.isfinite(metrics.get("loss", math.nan)) else ""
        self._write(f"{self._stage}{loss}{self._accuracy}  {duration_text(metrics.get('seconds', 0))}")
        self._describe()

    def _read_loss(self, training: "Training") -> None:
        """The mean over the epoch so far, of this process."""
        if self.bar.disable or time.monotonic() - self._loss_read < LOSS_EVERY or not training.step:
            return
        self._loss_read = time.monotonic()
        self._epoch = f"epoch {training.epoch + 1}/{training.config.epochs}"
        self._loss = f"  loss {float(training.total_loss) / training.step:.3f}"
        self._describe()

    def _describe(self) -> None:
        self.bar.set_description_str(f"{self._stage or self._epoch}{self._loss}{self._accuracy}", refresh=False)

    def _estimate(self, seconds_a_step: float) -> None:
        whole, left = self.total_steps * seconds_a_step, (self.total_steps - self.steps) * seconds_a_step
        self._write(
            f"about {duration_text(whole)} for all {self.total_steps:,} steps, {duration_text(left)} of them left; "
            "measuring not counted"
        )

    def _write(self, line: str) -> None:
        if self.accelerator.is_main_process:
            self.bar.write(line)
