"""How far a run is: a bar of optimizer steps, and once an estimate of the hours."""

import time
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from accelerate import Accelerator

ESTIMATE_AFTER = 5, 20.0  # steps and seconds after the first step, which compiles


class Progress:
    """Steps of a run, those before it was resumed among them; shown by one process of each machine."""

    def __init__(self, total_steps: int, done: int, accelerator: "Accelerator"):
        self.total_steps, self.steps, self.accelerator = total_steps, done, accelerator
        self._since: tuple[int, float] | None = None  # this process's first step, and when it was done
        self._estimated = False
        self.bar = tqdm(total=total_steps, initial=done, unit=" steps", disable=not accelerator.is_local_main_process)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def step(self) -> None:
        """Count an optimizer step."""
        self.steps += 1
        self.bar.update()
        self._since = self._since or (self.steps, time.monotonic())
        steps, seconds = self.steps - self._since[0], time.monotonic() - self._since[1]
        if not self._estimated and steps >= ESTIMATE_AFTER[0] and seconds >= ESTIMATE_AFTER[1]:
            self._estimated = True
            self._estimate(seconds / steps / 3600)

    def _estimate(self, hours: float) -> None:
        if self.accelerator.is_main_process:
            self.bar.write(
                f"about {hours * self.total_steps:.1f} hours for all {self.total_steps:,} steps, "
                f"{hours * (self.total_steps - self.steps):.1f} of them left; measuring not counted"
            )
