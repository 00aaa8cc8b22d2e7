"""The sharded tensors of a checkpoint, by torch.distributed.checkpoint: each process writes its parts.

In the state, a placeholder takes the place of each sharded tensor (`take_out`, `put_back`). A folder of shards gets a
new name, is written once, and is never changed. It counts once a checkpoint names it.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..processes import of_first, together
from ..sharding import is_sharded

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState

_PREFIX, _PLACE = "shards-", "sharded tensor"


def take_out(state: Any, into: dict[str, Tensor], path: str = "state") -> Any:
    """`state` with a placeholder for each sharded tensor; the tensors are put `into` under the placeholders' names."""
    if isinstance(state, Mapping):
        return {key: take_out(value, into, f"{path}/{key}") for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(take_out(value, into, f"{path}/{index}") for index, value in enumerate(state))
    if isinstance(state, Tensor) and is_sharded(state):
        into[path] = state.detach()
        return {_PLACE: path, "shape": list(state.shape), "dtype": state.dtype}
    return state


def put_back(state: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `take_out`."""
    if isinstance(state, Mapping):
        if _PLACE in state:
            return tensors[state[_PLACE]]
        return {key: put_back(value, tensors) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(put_back(value, tensors) for value in state)
    return state


def write(path: Path, tensors: dict[str, Tensor], accelerator: "Accelerator | PartialState") -> dict[str, str]:
    """Write the tensors to the new folder `path`, flushed to the disk; every process has to call it.

    Returns: file -> SHA-256. Raises: OSError, on all processes.
    """
    from accelerate.utils import gather_object
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_saver import save

    with together(accelerator):
        if accelerator.is_main_process:
            path.mkdir(parents=True)
    try:
        save(tensors, checkpoint_id=path)
    except CheckpointException as error:  # the same on all processes
        raise OSError(None, str(error), os.fspath(path)) from error
    with together(accelerator):
        files = _files(path)
    files, digests = of_first(files, accelerator), {}
    with together(accelerator):
        digests = {file: _digest(path / file) for file in _share_of(files, accelerator)}
    return {file: digest for share in gather_object([digests]) for file, digest in share.items()}


def read(
    path: Path,
    digests: Mapping[str, str],
    state: Any,
    like: Iterable[Tensor],
    accelerator: "Accelerator | PartialState",
) -> Any:
    """The state whose tensors `write` wrote, put back in the shards that tensors of their shape have now.

    Args:
        state: with placeholders.
        like: the model's parameters, sharded over any number of processes.
    Raises: ValueError, on all processes, if a file is damaged or missing, or the model is not sharded.
    """
    from torch.distributed.checkpoint.state_dict_loader import load

    with together(accelerator):
        if set(_files(path)) != digests.keys():
            raise ValueError(f"{path} does not have the files that were written to it")
        for file in _share_of(digests, accelerator):
            if _digest(path / file) != digests[file]:
                raise ValueError(f"{path / file} is damaged")
    layouts = {tuple(tensor.shape): tensor for tensor in like if is_sharded(tensor)}
    tensors = {}
    for place in _places(state):
        if (layout := layouts.get(tuple(place["shape"]))) is None:
            raise ValueError(f"a sharded run wrote it, and the model has no sharded weight of shape {place['shape']}")
        tensors[place[_PLACE]] = torch.empty_like(layout, dtype=place["dtype"], requires_grad=False)
    load(tensors, checkpoint_id=path)
    return put_back(state, tensors)


def new_name(accelerator: "Accelerator | PartialState") -> str:
    """A new name for a folder, the same on all processes."""
    return of_first(_PREFIX + os.urandom(8).hex(), accelerator)


def remove(folder: Path, *, but: Iterable[object] = ()) -> None:
    """Delete all folders of shards except those with these names."""
    for path in folder.glob(f"{_PREFIX}*"):
        if path.name not in but:
            shutil.rmtree(path)


def _places(state: Any) -> Iterator[dict[str, Any]]:
    values = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    if isinstance(state, Mapping) and _PLACE in state:
        yield dict(state)
    else:
        for value in values:
            yield from _places(value)


def _files(path: Path) -> list[str]:
    return os.listdir(path) if path.is_dir() else []


def _share_of(files: Iterable[str], accelerator: "Accelerator | PartialState") -> list[str]:
    """The files whose checksums this process computes, so that each file is read once."""
    return sorted(files)[accelerator.process_index :: accelerator.num_processes]


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
