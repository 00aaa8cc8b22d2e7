"""`find_signed_mask`: a whole search on accelerate, that survives being killed."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import nn

from ..config import PROTOCOLS, SignedMaskConfig
from ..data import Images, ImageSplit
from ..data.fingerprint import fingerprint
from ..evaluation import accuracy_of
from ..gem_miner import pruner_for
from ..mask import SignedMask
from ..mask_file.provenance import provenance
from ..mask_file.sparse_weights import REWOUND_FILE, WEIGHTS_FILE, load_weights, save_weights
from ..parameters.unwrap import unwrap
from ..processes import together
from ..training import steps_an_epoch, train
from ..training_config import TrainingConfig
from .output_folder import Run
from .preflight import check_fit

if TYPE_CHECKING:
    from accelerate import Accelerator


OF_FINAL_TRAINING = ("epochs", "schedule", "milestones", "min_learning_rate")  # stages have a constant rate


def round_folder(output_dir: str | Path, index: int) -> Path:
    """Where a search leaves the signed mask of round `index`."""
    return Path(output_dir) / f"round-{index:02}"


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
    told: Mapping[str, Any] = MappingProxyType({}),
) -> SignedMask:
    """Search for a signed mask by `config.method`, and leave the model with its trained sparse weights.

    Writes to `output_dir`: a folder `round-01`, `round-02`, ... with the signed mask of each round, the weights that
    survived it and their buffers (`load_weights`), with IMP and WR also those that they rewind to (`solution_weights`);
    `metrics.jsonl` (a line a stage; `seconds` and `images_per_second` in it are of the training steps alone),
    `run.json` (the settings) and, until it is done, the last two checkpoints. Started again with the same settings it
    goes on where it was; killed at any moment, a run on CPU ends with the same signs, bit for bit, as one that never
    was. A search that is done is only read again.

    Args:
        model: freshly initialized.
        training: optimizer, learning rate and batch size of every stage; its epochs and schedule are not used: the
            stages have their own length and a constant rate (Section 4.1). With its ema_decay every stage ends at the
            average of its weights: that is what is measured, pruned and signed, and where the next stage starts.
        test_data: measured after each stage, with BatchNorm re-estimated on `data` where the protocol says so; None:
            nothing is measured.
        seed: of the data order.
        resume: False refuses an output_dir that holds a run.
        checkpoint_seconds: least time between checkpoints within a stage; there is one after each stage in any case.
        told: of the search, for the cards of its masks: fields of `Provenance` that a machine can't know.
    Returns: the signed mask of the last round.
    Raises: CheckpointError if output_dir holds a run with other settings or other data, a checkpoint is damaged, or the
        disk is full; ValueError if the model does not fit the data; FloatingPointError if the loss is NaN or infinite,
        before anything is pruned or saved over; Interrupted after SIGTERM or SIGINT; Busy if a search is under way in
        output_dir. Each on all processes.
    """
    model.to(accelerator.device)
    for what, images in (("data", data), ("test_data", test_data)):
        if images is not None:
            check_fit(model, images, accelerator, what=what)
    pruner = pruner_for(model, config)
    used = {name: value for name, value in asdict(training).items() if name not in OF_FINAL_TRAINING}
    run = Run(
        output_dir,
        {
            "search": pruner.config.to_dict(),
            "training": used,
            "seed": seed,
            "images": len(data),
            "data": fingerprint(data),
            "test_data": None if test_data is None else fingerprint(test_data),
        },
        pruner.model,
        accelerator,
        total_steps=pruner.config.epochs * steps_an_epoch(data, training, accelerator),
        resume=resume,
        checkpoint_seconds=checkpoint_seconds,
        more_state=pruner.state_dict,
    )

    def keep(index: int, mask: SignedMask) -> None:
        with together(accelerator):
            if accelerator.is_main_process:
                mask.provenance = provenance(**{"training": used, **told})
                folder = round_folder(run.folder, index)
                mask.save_pretrained(folder)
                save_weights(folder, pruner.sparse_copy(), mask)
                if (rewound := pruner.rewound_copy()) is not None:
                    save_weights(folder, rewound, mask, file=REWOUND_FILE)

    with run:
        last = round_folder(run.folder, pruner.config.rounds or 0)
        if run.more is None and (last / WEIGHTS_FILE).exists():  # done: its checkpoint is gone, its result is there
            pruner.detach()
            return _read_again(last, model)
        if run.more is not None:
            pruner.load_state_dict(run.more)
        under_way = run.training
        for stage in pruner.rounds(on_mask=keep):
            if under_way is None:
                run.save()
            run.progress.bar.set_description(f"round {stage.index}/{stage.rounds}, {stage.remaining:.3f} remaining")
            loss = train(
                pruner.model,
                data,
                replace(training, epochs=stage.epochs, schedule="constant"),
                accelerator=accelerator,
                seed=1000 * seed + stage.index,
                on_step=run.after_step,
                on_end=run.after_training,
                resume=under_way,
            )
            under_way = None
            metrics: dict[str, Any] = {"stage": stage.index, "remaining": stage.remaining, "loss": loss, **run.cost}
            if test_data is not None:
                metrics["accuracy"] = accuracy_of(
                    pruner.model,
                    test_data,
                    train_data=data,
                    batch_size=training.batch_size,
                    accelerator=accelerator,
                    recalibrated=PROTOCOLS[config.protocol].recalibrate,
                )
            run.log(metrics)
        mask = pruner.signed_mask()
        pruner.detach()
        run.remove_checkpoint()
    return mask


def _read_again(folder: Path, model: nn.Module) -> SignedMask:
    """The mask that a search left; the weights and buffers that it left go into the model."""
    mask = SignedMask.from_pretrained(folder)
    unwrap(model).load_state_dict(load_weights(folder, mask), strict=False)
    return mask
