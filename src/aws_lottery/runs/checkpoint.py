"""Checkpoints of a search: one file, replaced whole, that loads without running anything that is in it."""

import io
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..atomic import replace_file

if TYPE_CHECKING:
    from accelerate import Accelerator

_FILE = "checkpoint.pt"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or the one found can't be gone on from."""


def save(folder: Path, state: Mapping[str, Any], accelerator: "Accelerator") -> None:
    """Write `state` and the random states of all processes to `folder`; every process has to call it.

    Written beside the last checkpoint, flushed to the disk and renamed over it: killed at any moment, one is whole.
    Raises: CheckpointError if it can't be written (a full disk); the last one is then still there.
    """
    from accelerate.utils import gather_object

    ranks = gather_object([_random_states()])
    if not accelerator.is_main_process:
        return
    buffer = io.BytesIO()
    torch.save({**state, "random": ranks}, buffer)
    try:
        replace_file(folder / _FILE, buffer.getvalue())
    except OSError as error:
        raise CheckpointError(
            f"could not write {folder / _FILE} ({len(buffer.getvalue()):,} bytes): {error}. The last checkpoint is "
            "intact; make room and start the same command again"
        ) from error


def load(folder: Path, accelerator: "Accelerator") -> dict[str, Any] | None:
    """The state last saved in `folder`, on the CPU, or None; sets this process's random states to what they were.

    Raises: CheckpointError if the file is damaged, holds more than plain data, or is of another number of processes.
    """
    path = folder / _FILE
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # runs no code
        ranks = state.pop("random")
    except Exception as error:
        raise CheckpointError(f"{path} can't be read ({error}); delete it to start anew") from error
    if len(ranks) != accelerator.num_processes:
        raise CheckpointError(
            f"{path} was written by {len(ranks)} processes, now there are {accelerator.num_processes}; the data order "
            "would differ. Go on with as many, or start anew in another folder"
        )
    _set_random_states(ranks[accelerator.process_index])
    return state


def remove(folder: Path) -> None:
    """Delete the checkpoint in `folder`, if there is one."""
    (folder / _FILE).unlink(missing_ok=True)


def claim(folder: Path, settings: Mapping[str, Any], *, resume: bool) -> bool:
    """Make `folder` the home of a run with these settings; returns whether there is a checkpoint to go on from.

    Raises: CheckpointError that lists the differences if it holds a run with other settings, or if it holds any run
        and `resume` is False.
    """
    settings = json.loads(json.dumps(settings))  # as they will be read back
    path = folder / "run.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, (json.dumps(settings, indent=2) + "\n").encode())
        return False
    if not resume:
        raise CheckpointError(f"{folder} holds a run already; take another output folder, or resume")
    theirs = json.loads(path.read_text())
    differences = [
        f"{key}: {theirs.get(key)!r} there, {settings.get(key)!r} now"
        for key in sorted({*theirs, *settings})
        if theirs.get(key) != settings.get(key)
    ]
    if differences:
        raise CheckpointError(
            f"{folder} holds a run with other settings:\n  " + "\n  ".join(differences) + "\n"
            "Give the same settings to resume it, or take another output folder"
        )
    return (folder / _FILE).exists()


def _random_states() -> dict[str, Any]:
    version, internal, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    return {
        "python": (version, list(internal), gauss),
        "numpy": json.dumps(numpy_state, default=lambda array: array.tolist()),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _set_random_states(states: Mapping[str, Any]) -> None:
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(json.loads(states["numpy"]))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
