"""The rank of absolute values over many tensors, exactly and without joining them: radix select on bit patterns."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

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


def select(values: Tensors, mask: Tensors, rank: int, wide: bool) -> tuple[int, int]:
    """The key with `rank` keys before it in sorted order, and how many are smaller: radix select, 16 bits at a time."""
    key, below = 0, 0
    top = 48 if wide else 16
    for shift in range(top, -1, -16):
        counts = torch.zeros(1 << 16, dtype=torch.int64)
        for name, tensor in values.items():
            for keys in _keys(tensor, mask[name], wide):
                high = keys >> shift
                digits = high if shift == top else high[(high >> 16) == key] & 0xFFFF
                counts += torch.bincount(digits, minlength=1 << 16).cpu()
        upto = counts.cumsum(0)
        digit = int(torch.searchsorted(upto, rank - below, right=True))
        below += int(upto[digit] - counts[digit])
        key = key << 16 | digit
    return key, below


def keep(values: Tensor, mask: Tensor, threshold: int, ties: int, wide: bool) -> tuple[Tensor, int]:
    """New mask of one tensor: survivors from the threshold up, less the first `ties` at it; the ties left to drop."""
    new = torch.empty(mask.numel(), dtype=torch.bool, device=mask.device)
    chunks = zip(_keys(values, mask, wide), new.split(_CHUNK), mask.reshape(-1).split(_CHUNK), strict=True)
    for keys, now, was in chunks:
        torch.ge(keys, threshold, out=now)
        if not threshold:  # pruned entries have key 0 too
            now.logical_and_(was)
        if ties:
            tied = (keys == threshold).logical_and_(now).nonzero().flatten()[:ties]
            now[tied] = False
            ties -= len(tied)
    return torch.empty_like(mask).copy_(new.view(mask.shape)), ties
