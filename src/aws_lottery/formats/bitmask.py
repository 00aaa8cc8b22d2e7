"""The sparse-bitmask form of compressed-tensors: the weights that are not 0, and one bit for each place.

A layer `L` with a pruned `L.weight` becomes `L.compressed` (nonzeros, row-major), `L.bitmask` (uint8, whole bytes for
each row of the last dimension, the lowest bit first), `L.row_offsets` (int64, a number a row: for a matrix the nonzeros
before it, for more dimensions those before it along the first one) and `L.shape` (int64).
compressed-tensors writes and reads this form up to version 0.14; later versions keep only the packing of the bits and
the name of the format.
"""

from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor

PARTS = ("shape", "compressed", "bitmask", "row_offsets")
_SUFFIX = ".weight"


def to_bitmask(weights: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """The tensors of a file: those of `names` in four parts each, the others as they are.

    Args:
        weights: name -> weight, zeros where it is pruned; any dtype that has a 0.
        names: which to compress, such as `mask.prunable`; only those that end in `.weight` can be.
    """
    tensors = {}
    for name, value in weights.items():
        if name in names and name.endswith(_SUFFIX):
            parts = zip(PARTS, _compressed(value.detach().cpu()), strict=True)
            tensors |= {f"{name.removesuffix(_SUFFIX)}.{part}": tensor for part, tensor in parts}
        else:
            tensors[name] = value.detach().cpu().contiguous()
    return tensors


def from_bitmask(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_bitmask`. Raises: ValueError that names the layer whose parts do not fit one another."""
    weights = {}
    for name, value in tensors.items():
        layer, _, part = name.rpartition(".")
        if f"{layer}.bitmask" not in tensors or part not in PARTS:
            weights[name] = value
        elif part == PARTS[0]:
            weights[layer + _SUFFIX] = _decompressed(layer, [tensors[f"{layer}.{part}"] for part in PARTS[:3]])
    return weights


def _compressed(value: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    places = value != 0
    bits = torch.from_numpy(np.packbits(places.numpy(), axis=-1, bitorder="little"))
    counts = places.sum(dim=-1)
    return torch.tensor(value.shape), value[places], bits, torch.cumsum(counts, 0) - counts


def _decompressed(layer: str, parts: list[Tensor]) -> Tensor:
    shape, values, bits = parts[0].tolist(), parts[1], parts[2]
    places = np.unpackbits(bits.cpu().numpy(), axis=-1, count=shape[-1], bitorder="little").astype(bool)
    if list(places.shape) != shape or int(places.sum()) != values.numel():
        raise ValueError(
            f"layer '{layer}': its bitmask has {int(places.sum()):,} ones in shape {places.shape}, expected "
            f"{values.numel():,} in shape {tuple(shape)}, as its values and its shape have; write the file again"
        )
    return torch.zeros(shape, dtype=values.dtype).masked_scatter_(torch.from_numpy(places), values)
