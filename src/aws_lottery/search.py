"""`find_signed_mask`: a whole search on accelerate, that survives being killed."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from tqdm import tqdm

from . import checkpoint
from .config import SignedMaskConfig
from .data import Images, batches
from .mask import SignedMask
from .partition import bare_model
from .pruner import AWSPruner, Stage
from .training import Training, TrainingConfig, evaluate, recalibrate, train

if TYPE_CHECKING:
    from accelerate import Accelerator


class Interrupted(SystemExit):
    """The search was told to stop (SIGTERM, SIGINT), and has saved a checkpoint first. Exit status 128 + signal."""


def find_signed_mask(
    model: nn.Module,
    data: Images,
    config: SignedMaskConfig,
    training: TrainingConfig,
    *,
    output_dir: str | Path,
    accelerator: "Accelerator",
    test_data: Images | None = None,
    seed: int = 0,
    resume: bool = True,
    checkpoint_seconds: float = 300.0,
) -> SignedMask:
    """Search for a signed mask by `config.method`, and leave the model with its trained sparse weights.

    Writes to `output_dir`: a folder `round-01`, `round-02`, ... with the signed mask of each round, `metrics.jsonl` (a
    line a stage), `run.json` (the settings) and `checkpoint.pt`. Started again with the same settings it goes on where
    it was; killed at any moment, a run on CPU ends with the same signs, bit for bit, as one that never was.

    Args:
        model: freshly initialized.
        training: optimizer, learning rate and batch size of every stage; its epochs and schedule are not used: the
            stages have their own length and a constant rate (Section 4.1).
        test_data: measured after each stage, with BatchNorm re-estimated on `data`; None: nothing is measured.
        seed: of the data order.
        resume: False refuses an output_dir that holds a run.
        checkpoint_seconds: least time between checkpoints within a stage; there is one after each stage in any case.
    Returns: the signed mask of the last round.
    Raises: CheckpointError if output_dir holds a run with other settings, or the disk is full; FloatingPointError if
        the loss is NaN or infinite, before anything is pruned or saved over; Interrupted after SIGTERM or SIGINT.
    """
    model.to(accelerator.device)
    pruner = AWSPruner(model, config)
    search = _Search(pruner, data, training, Path(output_dir), accelerator, seed, checkpoint_seconds)
    state = search.open(resume)
    with search.stoppable():
        for stage in pruner.rounds(on_mask=search.keep):
            if state is None:
                search.save(None)
            loss = search.train(stage, state)
            state = None
            search.report(stage, loss, test_data)
    search.save(None)
    search.progress.close()
    mask = pruner.signed_mask()
    pruner.detach()
    return mask


class _Search:
    """A search under way in its folder: progress, metrics, masks, checkpoints, signals."""

    def __init__(
        self,
        pruner: AWSPruner,
        data: Images,
        training: TrainingConfig,
        folder: Path,
        accelerator: "Accelerator",
        seed: int,
        checkpoint_seconds: float,
    ):
        self.pruner, self.data, self.folder, self.accelerator = pruner, data, folder, accelerator
        self.training, self.seed, self.checkpoint_seconds = training, seed, checkpoint_seconds
        self.model = bare_model(pruner.model)
        self.stopping: signal.Signals | None = None
        self.saved_at = time.monotonic()
        self.steps = 0
        steps = len(batches(data, training.batch_size, seed=seed)) // accelerator.gradient_accumulation_steps
        config = pruner.config
        assert config.rounds is not None
        total = steps * (config.warmup_epochs + config.rounds * config.epochs_per_round)
        self.progress = tqdm(total=total, unit=" steps", disable=not accelerator.is_local_main_process)

    def open(self, resume: bool) -> dict[str, Any] | None:
        """Claim the folder and load its checkpoint; returns the state of the training that was under way, if any."""
        settings = {
            "search": self.pruner.config.to_dict(),
            "training": asdict(self.training),
            "seed": self.seed,
            "images": len(self.data),
            "mixed_precision": self.accelerator.mixed_precision,
            "gradient_accumulation_steps": self.accelerator.gradient_accumulation_steps,
        }
        with self.accelerator.main_process_first():
            checkpoint.claim(self.folder, settings, resume=resume or not self.accelerator.is_main_process)
        state = checkpoint.load(self.folder, self.accelerator)
        self._cut_metrics(0 if state is None else state["metrics_bytes"])
        if state is None:
            return None
        self.model.load_state_dict(state["model"])
        self.pruner.load_state_dict(state["pruner"])
        self.steps = state["steps"]
        self.progress.update(self.steps)
        return state["training"]

    def train(self, stage: Stage, resume: dict[str, Any] | None) -> float:
        config = replace(self.training, epochs=stage.epochs, schedule="constant")
        self.progress.set_description(f"round {stage.index}/{stage.rounds}, {stage.remaining:.3f} remaining")
        return train(
            self.model,
            self.data,
            config,
            accelerator=self.accelerator,
            seed=1000 * self.seed + stage.index,
            on_step=self.after_step,
            resume=resume,
        )

    def after_step(self, training: Training) -> None:
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

    def _any(self, mine: bool) -> bool:
        """Whether it is so on any process, known to all."""
        if self.accelerator.num_processes == 1:
            return mine
        flag = torch.tensor(int(mine), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item())

    def save(self, training: Training | None) -> None:
        state = {
            "model": self.model.state_dict(),
            "pruner": self.pruner.state_dict(),
            "training": None if training is None else training.state_dict(),
            "steps": self.steps,
            "metrics_bytes": self._metrics.stat().st_size if self._metrics.exists() else 0,
        }
        checkpoint.save(self.folder, state, self.accelerator)
        self.saved_at = time.monotonic()

    def keep(self, index: int, mask: SignedMask) -> None:
        if self.accelerator.is_main_process:
            mask.save_pretrained(self.folder / f"round-{index:02}")

    def report(self, stage: Stage, loss: float, test_data: Images | None) -> None:
        metrics: dict[str, Any] = {"stage": stage.index, "remaining": stage.remaining, "loss": loss}
        if test_data is not None:
            recalibrate(self.model, batches(self.data, self.training.batch_size, seed=0))
            metrics["accuracy"] = evaluate(self.model, test_data, accelerator=self.accelerator)
        self.accelerator.log(metrics, step=self.steps)
        if self.accelerator.is_main_process:
            with self._metrics.open("a") as file:
                file.write(json.dumps(metrics) + "\n")

    @property
    def _metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    def _cut_metrics(self, size: int) -> None:
        """Forget the lines written after the checkpoint: they will be written again."""
        if self.accelerator.is_main_process:
            with self._metrics.open("ab") as file:
                file.truncate(size)

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
            for number, handler in before.items():
                signal.signal(number, handler)
