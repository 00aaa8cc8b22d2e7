"""Checkpoints of a run: one file, replaced whole, that loads without running anything that is in it.

Of a sharded model the file has all but the sharded tensors, and names the folder that these are in (`shards`).
"""

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..atomic import create_file, make_folder, replace_file
from ..processes import of_first, together
from ..random_states import random_states, set_random_states
from ..strict_json import CHECKED, CHECKSUM, read_object, to_json, with_checksum, without_checksum
from . import shards

if TYPE_CHECKING:
    from accelerate import Accelerator

SETTINGS_FILE = "run.json"
LAST, PREVIOUS, _NEW = "checkpoint.pt", "checkpoint-previous.pt", "checkpoint-new.pt"
_DIGEST = hashlib.sha256
BEGINNING = {SETTINGS_FILE, ".lock", "options.json", "log.txt"}  # what is in a run's folder before it has a checkpoint
NOT_SET = "not set"  # for a setting that only one of two runs has


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or the one found can't be gone on from."""


def save(folder: Path, state: Mapping[str, Any], accelerator: "Accelerator") -> None:
    """Write `state` and the random states of all processes to `folder`; every process has to call it.

    The file ends with its checksum, and the one before it stays as `checkpoint-previous.pt`. Each is written beside
    the others, flushed to the disk and renamed: killed at any moment, there is a whole one.
    Raises: CheckpointError, on all processes, if it can't be written (a full disk); the last one is then still there.
    """
    from accelerate.utils import gather_object

    ranks = gather_object([random_states()])
    tensors: dict[str, Tensor] = {}
    state = {**shards.take_out(state, tensors), "random": ranks}
    if tensors:
        name = shards.new_name(accelerator)
        try:
            state["shards"] = {"folder": name, "files": shards.write(folder / name, tensors, accelerator)}
        except OSError as error:
            raise _not_written(folder / name, error) from error
    with together(accelerator):
        if accelerator.is_main_process:
            _write(folder, state)
            if tensors:
                shards.remove(folder, but=[_shards_of(folder / name) for name in (LAST, PREVIOUS)])


def _write(folder: Path, state: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.write(_DIGEST(buffer.getbuffer()).digest())
    path = folder / LAST
    try:
        replace_file(folder / _NEW, buffer.getvalue())
        if path.exists():
            path.replace(folder / PREVIOUS)
        (folder / _NEW).replace(path)
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"could not write {path}: {error}. The last checkpoint is intact; make room and start the same command again"
    )


def _shards_of(path: Path) -> str | None:
    """The name of the folder of shards that a checkpoint has, if it has one."""
    return _read(path).get("shards", {}).get("folder") if path.exists() else None


def _read(path: Path) -> dict[str, Any]:
    return torch.load(io.BytesIO(_checked(path)), map_location="cpu", weights_only=True)  # runs no code


def load(folder: Path, accelerator: "Accelerator", *, like: Iterable[Tensor] = ()) -> dict[str, Any] | None:
    """The state last saved in `folder`, on the CPU, or None; sets this process's random states to what they were.

    A run of a sharded model may go on with another number of processes; it then has other random states (dropout).

    Args:
        like: the parameters of the model, whose shards those of the state get.
    Raises: CheckpointError if the file is damaged, holds more than plain data, or is of another number of processes.
    """
    name = of_first(next((name for name in (LAST, PREVIOUS) if (folder / name).exists()), None), accelerator)
    if name is None:
        return None
    path = folder / name
    with together(accelerator):
        state = _loaded(path, accelerator.num_processes)
    ranks, sharded = state.pop("random"), state.pop("shards", None)
    if sharded is not None:
        try:
            state = shards.read(folder / sharded["folder"], sharded["files"], state, like, accelerator)
        except ValueError as error:
            raise CheckpointError(f"{path} can't be read ({error}); {_way_out(path)}") from error
    set_random_states(ranks[accelerator.process_index % len(ranks)])
    return state


def _loaded(path: Path, processes: int) -> dict[str, Any]:
    try:
        state = _read(path)
        ranks = len(state["random"])
    except Exception as error:
        raise CheckpointError(f"{path} can't be read ({error}); {_way_out(path)}") from error
    if ranks != processes and "shards" not in state:
        raise CheckpointError(
            f"{path} was written by {ranks} processes, now there are {processes}; the data order "
            "would differ. Go on with as many, or start anew in another folder"
        )
    return state


def _checked(path: Path) -> bytes:
    """The file without the checksum at its end. Raises: ValueError if that is not the checksum of the rest."""
    data = path.read_bytes()
    size = len(data) - _DIGEST().digest_size
    if size < 0 or _DIGEST(memoryview(data)[:size]).digest() != data[size:]:
        raise ValueError("it is damaged, or was written before checkpoints had a checksum: its last bytes are none")
    return data[:size]


def _way_out(path: Path) -> str:
    previous = path.with_name(PREVIOUS)
    if path == previous or not previous.exists():
        return "there is none before it: delete it to start anew"
    try:
        _checked(previous)
    except ValueError:
        return f"{previous} is damaged, too: delete both to start anew"
    return f"{previous} is good: delete {path.name} to go on from there"


def has_checkpoint(folder: Path) -> bool:
    return any((folder / name).exists() for name in (LAST, PREVIOUS))


def remove(folder: Path, *, keep_last: bool = False) -> None:
    """Delete the checkpoints in `folder`, if there are any; the last one last, so that what is left is never older."""
    for name in (_NEW, PREVIOUS) if keep_last else (_NEW, PREVIOUS, LAST):
        (folder / name).unlink(missing_ok=True)
    shards.remove(folder, but=[_shards_of(folder / LAST)])


def holds_nothing(folder: Path) -> bool:
    """Whether a run that ended in `folder` left nothing but what it began with: no step is in a checkpoint, and no file
    is there that it may have written later. A run may be under way; who asks has to hold its lock."""
    left = {path.name for path in folder.iterdir()} - BEGINNING
    try:
        state = _read(folder / LAST) if LAST in left else dict[str, Any](steps=0)
        return not state["steps"] and left <= {LAST, state.get("shards", {}).get("folder")}
    except Exception:  # it is damaged, and may have held more
        return False


def release(folder: Path) -> None:
    """Leave `folder` to any run: for one that ends before it has anything to go on from."""
    remove(folder)
    (folder / SETTINGS_FILE).unlink(missing_ok=True)


def claim(
    folder: Path,
    settings: Mapping[str, Any],
    *,
    resume: bool,
    may_go_on: Callable[[Mapping[str, Any], Mapping[str, Any]], bool] = lambda there, now: False,
) -> None:
    """Make `folder` the home of a run with these settings, in run.json with their checksum. Of runs that do so at once
    in an empty folder, one makes it its own.

    Args:
        may_go_on: says of other settings there, and those now, whether the run there goes on with these; run.json is
            then replaced.
    Raises: CheckpointError that lists the differences if it holds a run with other settings, if its run.json is
        damaged, or if it holds any run and `resume` is False.
    """
    sealed = with_checksum(settings)
    path, text = folder / SETTINGS_FILE, (to_json(sealed, indent=2) + "\n").encode()
    if not path.exists():
        make_folder(folder)
        with suppress(FileExistsError):  # runs that share a folder may come at once
            return create_file(path, text)
    if not resume:
        raise CheckpointError(f"{folder} holds a run already; take another output folder, or resume")
    theirs = _settings_in(path)
    compared = {*theirs, *sealed} if CHECKSUM in theirs else {*theirs}  # files of before say less
    differences = [
        difference
        for key in sorted(compared - {CHECKED, CHECKSUM})
        for difference in _differences(key, theirs.get(key), sealed.get(key))
    ]
    if differences and may_go_on(without_checksum(theirs), without_checksum(sealed)):
        replace_file(path, text)
    elif differences:
        raise CheckpointError(
            f"{folder} holds a run with other settings:\n  " + "\n  ".join(differences) + "\n"
            "Give the same settings to resume it, or take another output folder"
        )


def _differences(name: str, there: Any, now: Any) -> list[str]:
    """A line for each setting that differs, within groups of settings as well."""
    if there == now:
        return []
    if not (isinstance(there, Mapping) and isinstance(now, Mapping)):
        return [f"{name}: {there!r} there, {now!r} now"]
    both = [(key, there.get(key, NOT_SET), now.get(key, NOT_SET)) for key in {**there, **now}]
    return [line for key, *values in both for line in _differences(f"{name}.{key}", *values)]


def _settings_in(path: Path) -> dict[str, Any]:
    """The settings, with their checksum if they have one."""
    try:
        settings = read_object(path.read_bytes())
        if not without_checksum(settings):
            raise ValueError("it holds no settings")
    except ValueError as error:
        raise CheckpointError(
            f"{path} is damaged: {error}. Take another output folder, or delete it if you are sure that the run in "
            "there has the settings given now"
        ) from error
    return settings
