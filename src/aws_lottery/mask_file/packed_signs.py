"""Signs that stay packed in memory: the bytes of their file, about 1 to 1.5 bits an entry, decoded at each access.

So a large mask, of which every process of a sharded model has a copy, costs a few bits a weight and, while one of its
tensors is used, a byte for each entry of that tensor.
"""

import hashlib
import math
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import golomb_rice
from .header import MAX_DIMENSIONS, Row

WHOLE_ENTRIES = 1 << 26  # of a mask that is kept decoded, 64 MiB: decoding costs time at each access


class Packed(NamedTuple):
    """One tensor: its row of the table, and its two streams, of uint8."""

    row: Row
    positions: np.ndarray
    signs: np.ndarray

    def decoded(self) -> np.ndarray:
        """Flat int8. Raises: ValueError, unless the streams hold what the row says."""
        return golomb_rice.decode(self.row.code, self.positions, self.signs)


class PackedSigns(Mapping[str, Tensor]):
    """Name -> int8 tensor in {-1, 0, 1}, a new one at each access."""

    def __init__(self, tensors: Iterable[Packed], sha256: str):
        """Of tensors that are known to be whole, with the checksum of their signs (docs/format.md)."""
        self.tensors = {packed.row.name: packed for packed in tensors}
        self.sha256 = sha256

    @classmethod
    def of(cls, signs: Iterable[tuple[str, Tensor]]) -> "PackedSigns":
        """Pack tensors by name, one after the other. Raises: ValueError as `flat`."""
        tensors, checksum = [], Checksum()
        for name, value in signs:
            values = flat(name, value)
            checksum.add(name, value.shape, values)
            code, positions, sign_bits = golomb_rice.encode(values)
            tensors.append(Packed(Row(name, list(value.shape), code), positions, sign_bits))
            del value, values  # before the next one is made
        return cls(tensors, checksum.hexdigest())

    def __getitem__(self, name: str) -> Tensor:
        packed = self.tensors[name]
        return torch.from_numpy(packed.decoded()).reshape(packed.row.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:  # that of Mapping would decode the tensor
        return name in self.tensors


class Counts(NamedTuple):
    """Entries of one tensor of signs."""

    size: int
    nonzeros: int
    negatives: int


class Checksum:
    """SHA-256 of a signed mask, a tensor at a time (docs/format.md)."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.hexdigest = self._digest.hexdigest

    def add(self, name: str, shape: Iterable[int], values: np.ndarray) -> None:
        """Length of the name, name, number of dimensions, dimensions, signs."""
        text, shape = name.encode(), tuple(shape)
        self._digest.update(struct.pack(f"<Q{len(text)}sQ{len(shape)}Q", len(text), text, len(shape), *shape))
        self._digest.update(values.data)


def pack_if_large(signs: Iterable[tuple[str, Tensor]], entries: int) -> Mapping[str, Tensor]:
    """Signs by name as a mask of so many entries keeps them; packed one after the other."""
    return PackedSigns.of(signs) if is_large(entries) else dict(signs)


def is_large(entries: int) -> bool:
    """Whether a mask of so many entries stays packed."""
    return entries > WHOLE_ENTRIES


def shapes_of(signs: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name -> shape; nothing is decoded."""
    if isinstance(signs, PackedSigns):
        return {name: tuple(packed.row.shape) for name, packed in signs.tensors.items()}
    return {name: tuple(value.shape) for name, value in signs.items()}


def entries_of(signs: Mapping[str, Tensor]) -> int:
    """Of all tensors together."""
    return sum(math.prod(shape) for shape in shapes_of(signs).values())


def count(signs: Mapping[str, Tensor], name: str) -> Counts:
    """How many entries of each kind a tensor has; of packed ones it is known."""
    if isinstance(signs, PackedSigns):
        return Counts(*signs.tensors[name].row.code[:3])
    value = signs[name]
    return Counts(value.numel(), int(torch.count_nonzero(value)), int((value < 0).sum()))


def remaining_of(signs: Mapping[str, Tensor], names: Collection[str]) -> float:
    """Share of the entries of these tensors that are not 0. Raises: ValueError if there are none."""
    counts = [count(signs, name) for name in names]
    if not (entries := sum(c.size for c in counts)):
        raise ValueError("remaining needs at least one entry, the mask has none")
    return sum(c.nonzeros for c in counts) / entries


def sha256(signs: Mapping[str, Tensor]) -> str:
    """The checksum of a signed mask as its file has it, which tells masks apart; of packed signs it is known."""
    if isinstance(signs, PackedSigns):
        return signs.sha256
    checksum = Checksum()
    for name, value in signs.items():
        checksum.add(name, value.shape, flat(name, value))
    return checksum.hexdigest()


def flat(name: str, value: Tensor) -> np.ndarray:
    """The signs of a tensor, row-major. Raises: ValueError that names it if it can't be kept."""
    check_signs(name, value)
    if value.ndim > MAX_DIMENSIONS:
        raise ValueError(f"signed mask '{name}' has {value.ndim} dimensions, at most {MAX_DIMENSIONS} fit")
    return value.detach().cpu().reshape(-1).contiguous().numpy()


def check_signs(name: str, value: Tensor) -> None:
    """Raises ValueError unless the tensor is of signs."""
    if value.dtype != torch.int8 or (value.numel() and not -1 <= value.min() <= value.max() <= 1):
        raise ValueError(f"signed mask '{name}' must be int8 in {{-1, 0, 1}}; use aws_lottery.sign0")
