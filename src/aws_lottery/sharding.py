"""Tensors whose parts lie in several processes (DTensor: FSDP2, tensor parallel, 2-D meshes), and ordinary tensors.

A mask is sharded like its weight. Elementwise work is done on the part in this process (`local`). Counts include each
entry once (`counted`) and are summed over all processes (`total`). For ordinary tensors all of these functions work
without communication, so the same code serves both.
"""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Whether `tensor` is a DTensor.

    The module that defines DTensor takes half a second to import, so it is only looked up: where there is a DTensor, it
    has been imported.
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def is_sharded_model(model: nn.Module) -> bool:
    """Whether any parameter of `model` is sharded. It shows its shards for that, as `reshard_` says."""
    reshard_(model)
    return any(map(is_sharded, model.parameters()))


def reshard_(model: nn.Module) -> None:
    """Have `model` show its shards again where a forward without backward, as in an evaluation, left whole tensors.

    FSDP2 leaves those of the outermost group in the places of their shards until the next backward: ordinary copies,
    whose changes are lost. Not to be called within a forward or a backward.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None:
        for module in model.modules():
            if isinstance(module, fsdp.FSDPModule):
                module.reshard()  # type: ignore[operator]


def local(tensor: Tensor) -> Tensor:
    """The part of `tensor` that lies in this process, sharing its memory; all of it if it is not sharded.

    Call it under torch.no_grad: every step calls it, so it does not switch autograd off itself.
    """
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[operator]


@torch.no_grad()
def whole(tensor: Tensor) -> Tensor:
    """All of `tensor`, gathered from all processes; every process has to call it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[operator]


@torch.no_grad()
def as_laid_out(values: Tensor, like: Tensor) -> Tensor:
    """`values` sharded like `like`, or whole if `like` is; without communication if every process has them whole."""
    if not is_sharded(like):
        return whole(values)
    if is_sharded(values):
        mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
        return values.redistribute(mesh, placements)  # type: ignore[operator]
    from torch.distributed.tensor import DTensor

    shape, offset = _place(like)
    part = values[tuple(slice(start, start + size) for start, size in zip(offset, shape, strict=True))]
    return DTensor.from_local(
        part.to(local(like).device, copy=True, memory_format=torch.contiguous_format),
        like.device_mesh,  # type: ignore[attr-defined]
        like.placements,  # type: ignore[attr-defined]
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


def counted(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors whose part this process counts, so that `total` counts every entry once: all names if none
    is sharded; if several processes have equal parts, the first of them counts."""
    if not any(map(is_sharded, tensors.values())):
        return list(tensors)
    return [name for name, tensor in tensors.items() if _is_first(tensor)]


def _is_first(tensor: Any) -> bool:
    """Whether this process has the first of equal parts: of replicas on the tensor's mesh, and of equal meshes where
    each has some of the processes (a layer that FSDP2 shards beside others that are tensor parallel, too)."""
    if not is_sharded(tensor):
        return torch.distributed.get_rank() == 0
    mesh = tensor.device_mesh
    places = zip(mesh.get_coordinate(), tensor.placements, strict=True)
    first = all(coordinate == 0 or not placement.is_replicate() for coordinate, placement in places)
    return first and 0 in mesh.mesh


def total(counts: Tensor, tensors: Iterable[Tensor]) -> Tensor:
    """The sum of `counts` over all processes if any of `tensors` is sharded, on the CPU; every process calls it."""
    mesh = next((t.device_mesh for t in tensors if is_sharded(t)), None)  # type: ignore[attr-defined]
    if mesh is None:
        return counts.cpu()
    counts = counts.to(mesh.device_type, copy=True)
    torch.distributed.all_reduce(counts)
    return counts.cpu()


def positions(tensor: Tensor, entries: Tensor) -> Tensor:
    """Row-major indices in the whole `tensor`, int64, of `entries`: row-major indices in the part in this process."""
    if not is_sharded(tensor):
        return entries
    shape, offset = _place(tensor)
    index = torch.zeros_like(entries)
    stride = 1
    for size, length, start in zip(reversed(shape), reversed(tensor.shape), reversed(offset), strict=True):
        index += (entries % size + start) * stride
        entries = entries // size
        stride *= length
    return index


def _place(tensor: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape of the part in this process, and its offset in the whole tensor."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    return compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
