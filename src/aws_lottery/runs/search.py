"""`find_signed_mask`: a whole search on accelerate, that survives being killed."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..config import METHODS, PROTOCOLS, SignedMaskConfig
from ..data import Images, ImageSplit
from ..data.fingerprint import fingerprint
from ..evaluation import accuracy_of
from ..fsdp import shard_
from ..gem_miner import pruner_for
from ..mask import SignedMask
from ..mask_file import packing
from ..mask_file.sparse_weights import WEIGHTS_FILE
from ..preflight import check_fit
from ..processes import any_process, together
from ..pruner import AWSPruner, Stage
from ..sharding import is_sharded_model
from ..starting import MaskSource, as_mask
from ..training import Training, steps_an_epoch, train
from ..training_config import TrainingConfig
from .checkpoint import CheckpointError, has_checkpoint
from .output_folder import Run
from .round_folder import read_round_, round_folder, save_round

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

OF_FINAL_TRAINING = ("epochs", "schedule", "milestones", "min_learning_rate")  # stages have a constant rate


def find_signed_mask(
    model: nn.Module,
    data: Images | ImageSplit,
    config: SignedMaskConfig,
    training: TrainingConfig,
    *,
    output_dir: str | Path,
    accelerator: "Accelerator",
    test_data: Images | ImageSplit | None = None,
    seed: int = 0,
    resume: bool = True,
    checkpoint_seconds: float = 300.0,
    about: Mapping[str, Any] = MappingProxyType({}),
    mask: MaskSource | None = None,
    psi_init: Mapping[str, Tensor] | None = None,
    solution_epochs: int = 0,
) -> SignedMask:
    """Search for a signed mask by `config.method`, and leave the model with its trained sparse weights.

    Writes to `output_dir`: a folder `round-01`, `round-02`, ... with the signed mask of each round, the weights that
    survived it and their buffers (`load_weights`), with IMP and WR also those that they rewind to (`solution_weights`);
    `metrics.jsonl` (a line a stage; `seconds` and `images_per_second` in it are of the training steps alone),
    `run.json` (the settings) and the last two checkpoints, of which one stays. Started again with the same settings it
    goes on where it was; killed at any moment, a run on CPU ends with the same signs, bit for bit, as one that never
    was. A search that is done is only read again, or, with more rounds in its configuration, goes on from its
    checkpoint: it is then, bit for bit, the longer search (masks of before keep the shorter configuration). An error is
    raised on all processes.

    Args:
        model: freshly initialized, or with the weights to start from where there is a `mask`.
        data: to train on.
        config: method, rounds and epochs.
        training: optimizer, learning rate and batch size of every stage; its epochs and schedule are not used: the
            stages have their own length and a constant rate (Section 4.1). With its ema_decay every stage ends at the
            average of its weights: that is what is measured, pruned and signed, and where the next stage starts. With
            `gm` one optimizer trains through all stages, and the schedule is used: it runs over all their epochs.
        output_dir: made if need be; for this search alone, and seen by all processes, on whatever machine.
        accelerator: what it runs on; with split_batches the batch size is that of all processes together.
        test_data: measured after each stage, with BatchNorm re-estimated on `data` where the protocol says so; None:
            nothing is measured.
        seed: of the data order.
        resume: False refuses an output_dir that holds a run.
        checkpoint_seconds: least time between checkpoints within a stage; there is one after each stage in any case.
        about: what the cards of the masks say of the search: fields of `Provenance` that a machine can't know.
        mask: of a search that does not start dense, as AWSPruner takes it; what it was and came from is in the
            provenance of all masks that are found.
        psi_init: as AWSPruner takes it.
        solution_epochs: as in `AWSPruner.rounds`: the model is then left with the solution, trained for so long after
            the last prune with the schedule of `training`; it is kept in a folder `solution`, too. 0: with the `paper`
            protocol the model is left as its last prune left it, less accurate than before that.

    Returns:
        The signed mask of the last round. The model is an ordinary one afterwards, also after an error.

    Raises:
        CheckpointError: If output_dir holds a run with other settings or other data, a checkpoint is damaged, or the
            disk is full.
        ValueError: If the model does not fit the data, accelerate can't shard it as it is set, or a process does not
            see output_dir as the first one does.
        OSError: If output_dir is a file, or can't be written to.
        FloatingPointError: If the loss is NaN or infinite, before anything is pruned or saved over.
        Interrupted: After SIGTERM or SIGINT.
        Busy: If a search is under way in output_dir.

    Example:
        >>> from accelerate import Accelerator
        >>> from aws_lottery import SignedMaskConfig, TrainingConfig, create_model, find_signed_mask, load_data
        >>> data = load_data("uoft-cs/cifar100")  # doctest: +SKIP
        >>> mask = find_signed_mask(
        ...     create_model("resnet20", 100, image_size=32), data.train, SignedMaskConfig(rounds=9), TrainingConfig(),
        ...     output_dir="runs/aws", accelerator=Accelerator(), test_data=data.test,
        ... )  # doctest: +SKIP
    """
    shard_(model, accelerator)
    if not is_sharded_model(model):
        model.to(accelerator.device)
    for what, images in (("data", data), ("test_data", test_data)):
        if images is not None:
            check_fit(model, images, accelerator, what=what)
    mask = None if mask is None else as_mask(mask)
    pruner = pruner_for(model, config, mask=mask, psi_init=psi_init)
    try:
        search = Search(pruner, data, training, accelerator, test_data, seed, about, solution_epochs)
        run = Run(
            output_dir,
            search.settings(mask),
            pruner.model,
            accelerator,
            total_steps=search.total_steps,
            resume=resume,
            checkpoint_seconds=checkpoint_seconds,
            more_state=search.state_dict,
            may_go_on=partial(_has_more_rounds, Path(output_dir)),
        )
        with run:
            return search.go_on(run)
    finally:
        pruner.detach()


@dataclass
class Search:
    """What `find_signed_mask` does once it has a pruner; its arguments."""

    pruner: AWSPruner
    data: Images | ImageSplit
    training: TrainingConfig
    accelerator: "Accelerator"
    test_data: Images | ImageSplit | None
    seed: int
    about: Mapping[str, Any]
    solution_epochs: int
    so_far: dict[str, Any] | None = None  # the state of one training through all stages, where there is one

    def __post_init__(self) -> None:
        self.protocol = PROTOCOLS[self.pruner.config.protocol]
        self.one_training = METHODS[self.pruner.config.method].scores
        unused = ("epochs",) if self.one_training else OF_FINAL_TRAINING
        self.used = {name: value for name, value in asdict(self.training).items() if name not in unused}

    @property
    def total_steps(self) -> int:
        partial_batches = self.protocol.partial_batches
        steps = steps_an_epoch(self.data, self.training, self.accelerator, partial_batches=partial_batches)
        return (self.pruner.config.epochs + self.solution_epochs) * steps

    def settings(self, mask: SignedMask | None) -> dict[str, Any]:
        """What a run that goes on must have in common with the one that began."""
        return {
            "search": self.pruner.config.to_dict(),
            "training": self.used,
            "seed": self.seed,
            "images": len(self.data),
            "data": fingerprint(self.data),
            "test_data": None if self.test_data is None else fingerprint(self.test_data),
            **({} if mask is None else {"mask": packing.sha256(mask.signs)}),
            **({"solution_epochs": self.solution_epochs} if self.solution_epochs else {}),
        }

    def state_dict(self) -> dict[str, Any]:
        return {**self.pruner.state_dict(), "so_far": self.so_far}

    def go_on(self, run: Run) -> SignedMask:
        """Train every stage that is left, and keep each round; if nothing is left, read what is there."""
        rounds = self.pruner.config.rounds or 0
        last = run.folder / "solution" if self.solution_epochs else round_folder(run.folder, rounds)
        done = run.more is None or (run.more["stage"] > rounds + bool(self.solution_epochs) and not run.more["begun"])
        if done and any_process((last / WEIGHTS_FILE).exists(), self.accelerator):
            self.pruner.detach()
            logger.info("this search is done: its mask is read from %s", last)
            with together(self.accelerator):
                return read_round_(last, self.pruner.model)
        if run.more is not None:
            logger.info("goes on from the checkpoint in %s, after step %d", run.folder, run.steps)
            self.pruner.load_state_dict(run.more)
            self.so_far = run.more.get("so_far")  # older checkpoints have none

        def keep(index: int, mask: SignedMask) -> None:
            self._keep(round_folder(run.folder, index), mask)

        under_way = run.training
        for stage in self.pruner.rounds(on_mask=keep, solution_epochs=self.solution_epochs):
            if under_way is None:
                run.save()
            run.progress.stage(_name_of(stage))
            loss = self._train(stage, run, under_way)
            under_way = None
            metrics = {"stage": stage.index, "remaining": stage.remaining, "loss": loss, **run.cost, **self._accuracy()}
            run.progress.stage_done(metrics)
            run.log(metrics)
        mask = self.pruner.signed_mask()
        if self.solution_epochs:
            self._keep(last, mask)
        run.keep_for_more()
        return mask

    def _keep(self, folder: Path, mask: SignedMask) -> None:
        """Write the mask and the weights of what has just ended."""
        save_round(folder, mask, self.pruner, self.accelerator, about={"training": self.used, **self.about})

    def _train(self, stage: Stage, run: Run, under_way: dict[str, Any] | None) -> float:
        """Train a stage, from where it was if it is `under_way`; returns its loss."""

        def after_training(training: Training) -> None:
            run.after_training(training)
            if self.one_training:
                self.so_far = training.state_to_go_on()

        return train(
            self.pruner.model,
            self.data,
            _training_of(stage, self.training, self.pruner.config),
            accelerator=self.accelerator,
            seed=1000 * self.seed + stage.index,
            on_step=run.after_step,
            on_end=after_training,
            resume=under_way or self.so_far,
            until=_last_epoch(stage, self.pruner.config) if self.one_training else None,
            partial_batches=self.protocol.partial_batches,
        )

    def _accuracy(self) -> dict[str, float]:
        if self.test_data is None:
            return {}
        accuracy = accuracy_of(
            self.pruner.model,
            self.test_data,
            train_data=self.data,
            batch_size=self.training.batch_size,
            accelerator=self.accelerator,
            recalibrated=self.protocol.recalibrate,
        )
        return {"accuracy": accuracy}


def _training_of(stage: Stage, training: TrainingConfig, config: SignedMaskConfig) -> TrainingConfig:
    """How a stage is trained: at a constant rate, but for the solution, and scores, whose schedule spans the search."""
    if METHODS[config.method].scores:
        return replace(training, epochs=config.epochs)
    constant = {"schedule": "constant"} if stage.index <= stage.rounds else {}
    return replace(training, epochs=stage.epochs, **constant)


def _last_epoch(stage: Stage, config: SignedMaskConfig) -> int:
    """The epoch at which a stage ends, counted over the whole search."""
    return config.warmup_epochs + stage.index * config.epochs_per_round


def _has_more_rounds(folder: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a run's settings differ from those now in nothing but fewer rounds, so that it can go on.

    Raises:
        CheckpointError: If it is done and left no checkpoint to go on from.
    """
    if "search" not in there:  # a final training, or a comparison
        return False
    past, future = (dict(settings["search"]) for settings in (there, now))
    rounds, more = past.pop("rounds"), future.pop("rounds")
    for config in (past, future):
        config.pop("target_remaining")
    if METHODS[future["method"]].scores and now["training"]["schedule"] != "constant":
        return False  # its rate would have been another from the first step on
    if not rounds < more or {**there, "search": past} != {**now, "search": future} or "solution_epochs" in now:
        return False
    if (round_folder(folder, rounds) / WEIGHTS_FILE).exists() and not has_checkpoint(folder):
        raise CheckpointError(
            f"{folder} holds a search of {rounds} rounds that is done, without a checkpoint to go on from; start "
            f"another in a folder of its own from the last mask: mask='{round_folder(folder, rounds)}'"
        )
    return True


def _name_of(stage: Stage) -> str:
    """The name of a stage for the bar and the lines of the run; all names of a search have one length."""
    if stage.index > stage.rounds:
        name = "solution"
    else:
        name = f"round {stage.index}/{stage.rounds}" if stage.index else "warm-up"
    return f"{name:<{len(f'round {stage.rounds}/{stage.rounds}')}}  {stage.remaining:.4f} remaining"
