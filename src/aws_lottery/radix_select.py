"""The rank of absolute values over many tensors, exactly and without joining them: radix select on bit patterns.

Tensors may be sharded: what processes exchange is 65,536 counts a pass, and, where equal values have to be told apart,
one number for each bit of an index.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from .sharding import counted, is_sharded, local, positions, total

Tensors = Mapping[str, Tensor]

_CHUNK = 1 << 18  # elements looked at together: bounds the memory, fills the cache


def _keys(values: Tensor, mask: Tensor, wide: bool) -> Iterator[Tensor]:
    """Chunks of non-negative integers, in row-major order, that sort like |values|; 0 where pruned.

    The bit pattern of a non-negative IEEE float grows with its value.
    """
    floats, ints = (torch.float64, torch.int64) if wide else (torch.float32, torch.int32)
    # bool as uint8: multiplying by bool is 2.5 times as slow
    bits = mask.view(torch.uint8) if mask.dtype == torch.bool else mask
    for v, m in zip(values.reshape(-1).split(_CHUNK), bits.reshape(-1).split(_CHUNK), strict=True):
        yield v.abs().to(floats).mul_(m).view(ints)


@torch.no_grad()
def select(values: Tensors, mask: Tensors, rank: int, wide: bool) -> tuple[int, int]:
    """The key with `rank` keys before it in sorted order, and how many are smaller: radix select, 16 bits at a time."""
    key, below = 0, 0
    top = 48 if wide else 16
    for shift in range(top, -1, -16):
        counts = torch.zeros(1 << 16, dtype=torch.int64)
        for name in counted(values):
            for keys in _keys(local(values[name]), local(mask[name]), wide):
                high = keys >> shift
                digits = high if shift == top else high[(high >> 16) == key] & 0xFFFF
                counts += torch.bincount(digits, minlength=1 << 16).cpu()
        counts = total(counts, values.values())
        upto = counts.cumsum(0)
        digit = int(torch.searchsorted(upto, rank - below, right=True))
        below += int(upto[digit] - counts[digit])
        key = key << 16 | digit
    return key, below


@torch.no_grad()
def keep(values: Tensor, mask: Tensor, threshold: int, ties: int, wide: bool) -> tuple[Tensor, int]:
    """New mask of one tensor: survivors from the threshold up, less the first `ties` at it; the ties left to drop."""
    here, elsewhere = _share_of_ties(values, mask, threshold, ties, wide)
    new = torch.empty_like(mask)
    dropped = _keep_part_(local(new), local(values), local(mask), threshold, here, wide)
    return new, ties - elsewhere - dropped


def _keep_part_(into: Tensor, values: Tensor, mask: Tensor, threshold: int, ties: int, wide: bool) -> int:
    """`keep` for the part of a tensor that lies here; returns how many ties it dropped."""
    new, left = torch.empty(mask.numel(), dtype=torch.bool, device=mask.device), ties
    chunks = zip(_keys(values, mask, wide), new.split(_CHUNK), mask.reshape(-1).split(_CHUNK), strict=True)
    for keys, now, was in chunks:
        torch.ge(keys, threshold, out=now)
        if not threshold:  # pruned entries have key 0 too
            now.logical_and_(was)
        if left:
            tied = (keys == threshold).logical_and_(now).nonzero().flatten()[:left]
            now[tied] = False
            left -= len(tied)
    into.copy_(new.view(mask.shape))
    return ties - left


def _share_of_ties(values: Tensor, mask: Tensor, threshold: int, ties: int, wide: bool) -> tuple[int, int]:
    """Of the first `ties` survivors at the threshold: at most how many are dropped here, and how many elsewhere.

    The order is that of the row-major index in the whole tensor, whatever part of it lies where.
    """
    if not ties or not is_sharded(mask):
        return ties, 0
    chunks = zip(_keys(local(values), local(mask), wide), local(mask).reshape(-1).split(_CHUNK), strict=True)
    tied = [
        (keys == threshold).logical_and_(was != 0).nonzero().flatten() + index * _CHUNK
        for index, (keys, was) in enumerate(chunks)
    ]
    places, first = positions(mask, torch.cat(tied)), bool(counted({"": mask}))

    def below(index: int) -> tuple[int, int]:
        """Ties before an index of the whole tensor: here, and in all processes."""
        here = int((places < index).sum())
        return here, int(total(torch.tensor(here if first else 0), [mask]))

    end = mask.numel()
    low, high = (end, end) if below(end)[1] <= ties else (0, end)
    while low < high:  # the smallest index with `ties` of them before it
        middle = (low + high) // 2
        low, high = (low, middle) if below(middle)[1] >= ties else (middle + 1, high)
    here, everywhere = below(low)
    return here, everywhere - here
