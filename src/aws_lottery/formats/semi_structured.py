"""2:4 semi-structured sparsity, with which GPUs multiply faster: at most two of four neighbors in a row are not 0."""

import torch
from torch import Tensor, nn
from torch.sparse import SparseSemiStructuredTensorCUTLASS, to_sparse_semi_structured

from ..mask import SignedMask
from ..parameters.fitting import fit
from ..parameters.unwrap import modules_of, unwrap


def misfits(mask: SignedMask, dtype: torch.dtype = torch.float16) -> dict[str, str]:
    """Name of each prunable tensor that can't be 2:4 -> the reason.

    An unstructured mask hardly ever fits: at 0.1 remaining, about 1 group of four in 270 has three or more left, and
    one is enough.
    """
    return {name: why for name in mask.prunable if (why := _why_not(mask[name], dtype))}


def to_semi_structured_(model: nn.Module, mask: SignedMask, dtype: torch.dtype = torch.float16) -> dict[str, str]:
    """Turn the linear weights of `model` that fit into torch's semi-structured tensors, in place, for inference.

    Args:
        model: on a CUDA device, in `dtype`, its weights 0 where the mask is.
    Returns: name in the mask -> reason, of the tensors that were left as they are.
    Raises: ValueError if the mask does not fit the model.
    """
    left, modules = misfits(mask, dtype), modules_of(unwrap(model))
    for name, place in fit(mask, model).items():
        owner, _, leaf = place.rpartition(".")
        if name not in mask.prunable or name in left:
            continue
        if not isinstance(modules[owner], nn.Linear):
            left[name] = f"a weight of {type(modules[owner]).__name__}, not of Linear"
            continue
        sparse = to_sparse_semi_structured(getattr(modules[owner], leaf).detach())
        setattr(modules[owner], leaf, nn.Parameter(sparse, requires_grad=False))
    return left


def _why_not(value: Tensor, dtype: torch.dtype) -> str | None:
    if value.dim() != 2:
        return f"{value.dim()} dimensions, not a matrix"
    limits = SparseSemiStructuredTensorCUTLASS._DTYPE_SHAPE_CONSTRAINTS[dtype]
    rows, columns = limits.sparse_min_rows, limits.sparse_min_cols
    if value.shape[0] % rows or value.shape[1] % columns:
        return f"{value.shape[0]} x {value.shape[1]}, not multiples of {rows} x {columns}"
    crowded = int(((value.view(-1, 4) != 0).sum(1) > 2).sum())
    return f"{crowded:,} of {value.numel() // 4:,} groups of four have more than two left" if crowded else None
