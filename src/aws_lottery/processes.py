"""What the processes of one run have to agree on, so that none waits for another that has left."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator


def any_process(mine: bool, accelerator: "Accelerator") -> bool:
    """Whether it is so on any process, known to all; every process has to ask."""
    if accelerator.num_processes == 1:
        return mine
    flag = torch.tensor(int(mine), device=accelerator.device)
    return bool(accelerator.reduce(flag, "sum").item())  # type: ignore[union-attr]


@contextmanager
def together(accelerator: "Accelerator") -> Iterator[None]:
    """An error in the block on one process is raised on all, and no process leaves the block before the others.

    Every process has to enter it; nothing in it may wait for another process.
    """
    error = None
    try:
        yield
    except Exception as raised:
        error = raised
    if accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        error = error or next((e for e in gather_object([_portable(error)]) if e is not None), None)
    if error is not None:
        raise error


def _portable(error: Exception | None) -> Exception | None:
    """As the other processes can be sent it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever the error's own class makes of it
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
