"""A(theta, u) as a job of its own: a final training in a folder, that survives being killed and is not run twice."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .. import checked_tensors
from ..atomic import replace_file
from ..config import PROTOCOLS, Protocol
from ..data import ImageData
from ..data.fingerprint import fingerprint
from ..evaluation import accuracy_of
from ..parameters.unwrap import parameters_of, unwrap
from ..preflight import check_fit
from ..processes import any_process, by_first
from ..signs import check_initialized
from ..strict_json import read_file, to_json, with_checksum, without_checksum
from ..training import steps_an_epoch, train
from ..training_config import TrainingConfig
from .output_folder import Run

if TYPE_CHECKING:
    from accelerate import Accelerator

RESULT_FILE, MODEL_FILE = "result.json", "model.safetensors"


def final_training(
    model: nn.Module,
    data: ImageData,
    config: TrainingConfig,
    *,
    output_dir: str | Path,
    accelerator: "Accelerator",
    identity: Mapping[str, Any],
    seed: int,
    protocol: Protocol = PROTOCOLS["paper"],
    weights: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Train `model` from where it is, and measure it before and after; or tell what was measured, if that was done.

    Writes to `output_dir`: `result.json`, which is returned, and `model.safetensors`, the trained network; while it
    trains, a checkpoint. A loss that is not finite is a result too: `failed` says so in place of `after`.

    Args:
        model: on any device; held to its mask, if it has one.
        identity: plain data that tells this training from others; in the result, and the same if it is resumed.
        seed: u, of the data order.
        protocol: whether BatchNorm is re-estimated before a measurement, and partial batches are trained on.
        weights: a state_dict of the network after this very training, if it was done elsewhere (`train_many`).
    Returns: `identity`, `training` (the hyper-parameters), `data_seed`, and `before` and `after`, top-1 accuracies in
        percent.
    Raises: CheckpointError if output_dir holds another training; ValueError if the model does not fit the data, or the
        result that is there is damaged; Interrupted; Busy.
    """
    model = unwrap(model)
    check_initialized(parameters_of(model))
    model.to(accelerator.device)
    identity = {**identity, "dataset": data.name, "training": asdict(config), "data_seed": seed}
    for what, images in (("data.train", data.train), ("data.test", data.test)):
        check_fit(model, images, accelerator, what=what)
    accuracy = partial(
        accuracy_of,
        model,
        data.test,
        train_data=data.train,
        batch_size=config.batch_size,
        accelerator=accelerator,
        recalibrated=protocol.recalibrate,
    )
    measured: dict[str, Any] = {}
    partial_batches = protocol.partial_batches
    steps = config.epochs * steps_an_epoch(data.train, config, accelerator, partial_batches=partial_batches)
    settings = {**identity, "data": fingerprint(data.train), "test_data": fingerprint(data.test)}
    run = Run(output_dir, settings, model, accelerator, total_steps=steps, more_state=lambda: measured)
    path = run.folder / RESULT_FILE
    with run:
        if any_process(path.exists(), accelerator):
            return by_first(partial(read_file, path, then="delete it to have the training done again"), accelerator)
        measured |= run.more or {"before": accuracy()}
        try:
            if weights is None:
                train(
                    model,
                    data.train,
                    config,
                    accelerator=accelerator,
                    seed=seed,
                    on_step=run.after_step,
                    resume=run.training,
                    partial_batches=partial_batches,
                )
            else:
                model.load_state_dict(weights)
            measured["after"] = accuracy()
        except FloatingPointError as error:
            measured["failed"] = str(error)
        result = with_checksum({**identity, **measured})
        by_first(partial(_write, run.folder, result, model), accelerator)
        run.remove_checkpoint()
    return without_checksum(result)


def _write(folder: Path, result: Mapping[str, Any], model: nn.Module) -> None:
    """The network, if its training did not fail, and then the result, which says that the training is done."""
    if "failed" not in result:
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        replace_file(folder / MODEL_FILE, checked_tensors.to_bytes(whole, {}))
    replace_file(folder / RESULT_FILE, (to_json(result, indent=2) + "\n").encode())
