"""How the processes of one run agree, so that none waits for another that has ended."""

import logging
import os
import pickle
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from .sharding import is_sharded

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState

T = TypeVar("T")
logger = logging.getLogger(__name__)


def any_process(mine: bool, accelerator: "Accelerator") -> bool:
    """Whether `mine` is true on any process; every process has to call it, and gets the same answer."""
    if accelerator.num_processes == 1:
        return mine
    flag = torch.tensor(int(mine), device=accelerator.device)
    return bool(accelerator.reduce(flag, "sum").item())  # type: ignore[union-attr]


def of_first(value: T, processes: "Accelerator | PartialState") -> T:
    """`value`, which has to be plain data, as the first process has it; every process has to call it."""
    if processes.num_processes == 1:
        return value
    from accelerate.utils import broadcast_object_list

    values = [value]
    broadcast_object_list(values)
    return values[0]


@torch.no_grad()
def share_buffers_(model: nn.Module, processes: "Accelerator | PartialState") -> None:
    """Copy the buffers of the first process, such as BatchNorm's running statistics, to all; every process calls it.

    DDP does so at the start of each forward (`broadcast_buffers`), FSDP2 never does. The first process's statistics are
    then those of its own batches in either way. Training does not use them, so it is enough to call this before
    something does: the values are those of DDP.
    """
    if processes.num_processes == 1:
        return
    from accelerate.utils import broadcast

    buffers: dict[torch.dtype, list[Tensor]] = defaultdict(list)  # one message each
    for buffer in model.buffers():
        if not is_sharded(buffer):
            buffers[buffer.dtype].append(buffer)
    for tensors in buffers.values():
        message: Tensor = broadcast(torch.cat([b.flatten() for b in tensors]).to(processes.device))  # type: ignore
        for buffer, values in zip(tensors, message.split([b.numel() for b in tensors]), strict=True):
            buffer.copy_(values.view_as(buffer))


def refuse_sharding(accelerator: "Accelerator | AcceleratorState", *, but_fsdp2: bool = False) -> None:
    """Raises: ValueError if something shards the parameters where masks can't follow (FSDP1, DeepSpeed, Megatron-LM).

    Args:
        but_fsdp2: FSDP2 is no error.
    """
    kind = str(accelerator.distributed_type).rpartition(".")[2]
    if kind == "FSDP" and but_fsdp2 and getattr(accelerator, "is_fsdp2", False):
        return
    if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise ValueError(
            f"training by {kind} keeps parameters where masks can't follow; use DistributedDataParallel (accelerate "
            "launch --multi_gpu), or, for a model larger than one device, FSDP2 "
            "(accelerate launch --config_file recipes/launch/fsdp2.yaml; fsdp_version: 2)"
        )


def warn_if_whole(accelerator: "Accelerator | AcceleratorState") -> None:
    """Log a warning where FSDP was asked for and accelerate, without a word, trains whole copies: on CPUs, and in a
    single process."""
    asked = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if asked and not str(accelerator.distributed_type).endswith("FSDP"):
        logger.warning(
            "FSDP was asked for, and the model is not sharded (%s): accelerate shards on two or more GPUs only. On "
            "CPUs, shard it yourself (torch.distributed.fsdp.fully_shard) and give it to AWSPruner or find_signed_mask",
            accelerator.distributed_type,
        )


@contextmanager
def together(accelerator: "Accelerator | PartialState") -> Iterator[None]:
    """An error in the block on one process is raised on all, and no process leaves the block before the others.

    Every process has to enter it. What waits for another process in it, all have to do, also after an error.
    """
    error = None
    try:
        yield
    except Exception as mine:
        error = mine
    if accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        raised = [other for other in gather_object([_portable(error)]) if other is not None]
        error = error or next(iter(raised), None)
    if error is not None:
        raise error


def by_first(do: Callable[[], T], processes: "Accelerator | PartialState") -> T:
    """What `do` returns, which has to be plain data, on the first process, which alone calls it; every process has to
    call this. An error is raised on all."""
    values: list[Any] = [None]
    with together(processes):
        if processes.is_main_process:
            values = [do()]
    return of_first(values[0], processes)


def warn_if_alone(accelerator: "Accelerator") -> None:
    """Log a warning where `accelerate launch --cpu --num_processes 2` has started a single process, as it always does.

    It leaves an address to meet at (MASTER_PORT), and no number of processes (WORLD_SIZE).
    """
    launched = "ACCELERATE_USE_CPU" in os.environ and "MASTER_PORT" in os.environ
    if launched and "WORLD_SIZE" not in os.environ and accelerator.num_processes == 1:
        logger.warning(
            "accelerate launch was asked for several processes and has started one: with --cpu it never starts more. "
            "Several processes on CPUs: torchrun --nproc_per_node 2 RECIPE"
        )


def _portable(error: Exception | None) -> Exception | None:
    """The error in a form that can be sent to the other processes."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever the error's own class makes of it
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
