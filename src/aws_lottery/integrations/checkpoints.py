"""The Trainer's checkpoints: where they are, what a search adds to them, and how to load all of their weights.

`save_pretrained` gives some weights the names that they have on the Hub (ViT's `vit.layers.*` become
`vit.encoder.layer.*`), and the Trainer, which resumes by `load_state_dict`, leaves those out with a warning
(huggingface/transformers issues 43701 and 48805, open with 5.23). A search can't go on with a part of its weights, so
this module loads the others.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerState, TrainingArguments

from ..atomic import replace_file
from ..processes import together
from ..random_states import aside
from ..runs import shards
from ..sharding import is_sharded_model

STATE_FILE = "winning_sign.pt"


def checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """Where the Trainer writes the checkpoint of this step."""
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"


def resumed_folders(args: TrainingArguments, state: TrainerState) -> list[Path]:
    """Where the checkpoint that a training resumes from may lie; `train` does not pass its folder to callbacks."""
    named = args.resume_from_checkpoint
    return [*([Path(named)] if isinstance(named, str) else []), checkpoint_folder(args, state)]


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint of a search in `folder` that is whole: what `resume_from_checkpoint=` takes; None: none is.

    The Trainer writes a checkpoint in place, and if it is killed in that, `resume_from_checkpoint=True` takes the part
    that is there and fails. Its own state, or that of the search, comes last.
    """
    written = (path.parent for path in folder.glob(f"checkpoint-*/{STATE_FILE}"))
    whole = [path for path in written if (path / "trainer_state.json").is_file()]
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return newest and str(newest)


def save_search(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a search beside the Trainer's files; its `search` and `step` identify it."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    replace_file(folder / STATE_FILE, buffer.getvalue())


def save_sharded_search(folder: Path, state: Mapping[str, Any]) -> None:
    """The same of a sharded model, whose processes write their parts to a folder of shards; all have to call it."""
    processes, tensors = PartialState(), dict[str, Tensor]()
    plain, name = shards.take_out(state, tensors), shards.new_name(processes)
    files = shards.write(folder / name, tensors, processes)
    with together(processes):
        if processes.is_main_process:
            save_search(folder, {**plain, "shards": {"folder": name, "files": files}})


def load_search(args: TrainingArguments, state: TrainerState, model: nn.Module, callback: str) -> dict[str, Any]:
    """The state that `save_search` wrote to the checkpoint that is resumed; afterwards `model` has all of its weights.

    Args:
        callback: name of the class whose state the Trainer kept.
    Raises, on all processes: ValueError if no search wrote the checkpoint, if a step had another number of rows then,
        if its shards are damaged, or if it is of a sharded model and this is none; FileNotFoundError if the file of its
        state is missing.
    """
    with together(PartialState()):
        folder, saved = _saved_search(args, state, callback)
        load_renamed_(model, folder)
    return _with_shards(folder, saved, model)


def _saved_search(args: TrainingArguments, state: TrainerState, callback: str) -> tuple[Path, dict[str, Any]]:
    """The folder of the checkpoint that is resumed, and the state of the search in it."""
    exported = (state.stateful_callbacks or {}).get(callback)  # type: ignore[union-attr]
    if not isinstance(exported, dict):
        raise ValueError(
            f"the checkpoint of step {state.global_step} was not written by a search: {callback} took no part in it. "
            "Start the search anew from a fresh initialization, in another output folder"
        )
    folders = resumed_folders(args, state)
    for folder in folders:
        if (folder / STATE_FILE).is_file():
            saved = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)  # runs no code
            if (saved["search"], saved["step"]) == (exported["attributes"]["_search"], state.global_step):
                _require_steps(saved, args, state)
                return folder, saved
    looked_in = " or ".join(map(str, folders))
    raise FileNotFoundError(
        f"the masks of the search at step {state.global_step} are not in {looked_in}, "
        "or those there are of another search. If the checkpoint lies in another folder, tell the callback, too: "
        "TrainingArguments(resume_from_checkpoint=its folder)"
    )


def _require_steps(saved: Mapping[str, Any], args: TrainingArguments, state: TrainerState) -> None:
    """Raises: ValueError if the search had another number of optimizer steps: its rounds would not end where they do.

    The number of processes may be another, as long as they see as many rows in a step together.
    """
    if saved.get("max_steps", state.max_steps) != state.max_steps:  # older files have none
        raise ValueError(
            f"the checkpoint of step {state.global_step} is of a search of {saved['max_steps']} optimizer steps, this "
            f"one has {state.max_steps}: resume it on the same data, with as many rows in a step. A step has now "
            f"per_device_train_batch_size={args.per_device_train_batch_size} x {args.world_size} processes x "
            f"gradient_accumulation_steps={args.gradient_accumulation_steps}"
        )


def _with_shards(folder: Path, saved: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    if (sharded := saved.pop("shards", None)) is None:
        return saved
    return shards.read(folder / sharded["folder"], sharded["files"], saved, model.parameters(), PartialState())


def load_renamed_(model: nn.Module, folder: Path) -> None:
    """Load the weights of the checkpoint in `folder` that the Trainer left out. Of a sharded model it leaves out none.

    Raises: ValueError if the weights that the Trainer did load differ from those in `folder`: another checkpoint.
    """
    if is_sharded_model(model):  # by torch.distributed.checkpoint, under the model's own names
        return
    own, renamed = model.state_dict(), False
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118, it is no mapping
                renamed |= name not in own
                if name in own and not torch.equal(file.get_tensor(name).to(own[name]), own[name]):
                    raise ValueError(
                        f"{path} is not the checkpoint that was loaded: its '{name}' has other values. If the "
                        "checkpoint lies in another folder, tell the callback, too: "
                        "TrainingArguments(resume_from_checkpoint=its folder)"
                    )
    if renamed and isinstance(model, PreTrainedModel):
        with aside(seed=0):
            whole = type(model).from_pretrained(folder, dtype=model.dtype)
        model.load_state_dict(whole.state_dict())
