"""The file of a signed mask: small, the same bytes on every machine, safe to read from strangers.

docs/format.md specifies it. In short: a safetensors file with two uint8 tensors, `positions` (where the
nonzeros are) and `signs`, both coded by golomb_rice.py, and in its metadata a JSON table with a row for each tensor
of the mask, and the SHA-256 of the decoded signs (header.py). The safetensors package can open it, but is not used to
write it, because it puts metadata in random order.
"""

import hashlib
import os
import struct
from collections.abc import Mapping, Sequence
from itertools import accumulate
from reprlib import repr as short  # what a hostile file holds can be millions of characters long

import numpy as np
import torch
from torch import Tensor

from ..atomic import replace_file
from .header import (
    FORMAT,
    FORMAT_VERSION,
    MAX_TEXT,
    AnotherFile,
    PackingError,
    Row,
    damaged,
    extent,
    header_of,
    parse,
)
from .packed_signs import Checksum, Packed, PackedSigns, is_large, sha256

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "AnotherFile",
    "PackingError",
    "Unpacked",
    "pack",
    "read",
    "sha256",
    "unpack",
    "write",
]

ELEMENTS_PER_BYTE = 1024  # at most, of the file, about the bound of zlib; `pack` pads smaller files
# Unless the reader says how many elements there may be: so many in any file, 64 MiB once decoded, and beyond them
# 64 for each byte of the file, which masks with 1.5 % left or more take by themselves; `pack` pads others.
FREE_ELEMENTS, TYPICAL_PER_BYTE = 1 << 26, 64

Unpacked = tuple[Mapping[str, Tensor], dict[str, str]]  # name -> signs, and the caller's metadata


def write(path: str | os.PathLike, signs: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a signed mask to `path`, atomically. Arguments and errors are those of `pack`, and OSError."""
    replace_file(path, pack(signs, metadata))


def read(path: str | os.PathLike, *, max_elements: int | None = None, file_sha256: str | None = None) -> Unpacked:
    """What `write` was given. Arguments and errors are those of `unpack`, and OSError.

    Args:
        file_sha256: of the whole file; None: any.
    Raises: AnotherFile if that is not its SHA-256.
    """
    with open(path, "rb") as file:
        try:
            size = os.fstat(file.fileno()).st_size
            if max_elements is not None and size > (most := MAX_TEXT + 2 * max_elements):  # before it fills the memory
                raise damaged(f"{size} bytes, expected at most {most} for {max_elements} elements")
            data = file.read()
            if file_sha256 is not None and file_sha256 != hashlib.sha256(data).hexdigest():
                raise AnotherFile(f"its SHA-256 is not {short(file_sha256)}")
            return unpack(data, max_elements=max_elements)
        except PackingError as error:
            raise type(error)(f"cannot read '{os.fspath(path)}': {error}") from None


def pack(signs: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of the file; they depend on nothing but the arguments and the order of `signs`.

    Args:
        signs: name -> int8 in {-1, 0, 1}, any shape.
        metadata: entries of the caller's own. The checksum does not cover them.
    Raises: ValueError that names the tensor or the entry that cannot be kept.
    """
    packed = signs if isinstance(signs, PackedSigns) else PackedSigns.of(signs.items())
    tensors = list(packed.tensors.values())
    rows = [tensor.row for tensor in tensors]
    header = header_of(rows, metadata, packed.sha256)
    streams = [tensor.positions.data for tensor in tensors] + [tensor.signs.data for tensor in tensors]
    least = _least_size(sum(extent(row.shape) for row in rows)) - sum(map(len, streams))
    header = header.ljust(-(-max(len(header), least) // 8) * 8)
    return b"".join([struct.pack("<Q", len(header)), header, *streams])


def unpack(data: bytes, *, max_elements: int | None = None) -> Unpacked:
    """The inverse of `pack`, for bytes from any source.

    A file needs no bytes for a tensor of any size that is all 0 or all +1, so the number of elements that it declares
    is compared with a limit before anything is allocated. Without `max_elements` the limit is 64 Mi elements or, if
    that is more, 64 for each byte of the file. A caller that knows the model passes its number of parameters: then no
    file takes more memory than a proper one, which is its own size, a byte for each element (of a mask that
    stays packed: of its largest tensor) and about a megabyte of scratch, or 190 MB to parse the worst header. In any
    case there are at most 1024 elements for each byte of the file. `pack` pads the masks that take fewer bytes.

    Args:
        max_elements: of all tensors together; a dimension of 0 counts as 1; None: as above.
    Returns: name -> int8 in {-1, 0, 1}, in the order that `pack` was given, as `pack_if_large` keeps them, and the
        caller's metadata.
    Raises: PackingError, whatever the bytes, unless they are a signed mask and its checksum is right.
    """
    limit = _limit(len(data)) if max_elements is None else min(max_elements, ELEMENTS_PER_BYTE * len(data))
    header, body = _split(data, limit)
    rows, metadata, expected_digest = parse(header, limit)
    expected = sum(row.code.position_bytes + row.code.sign_bytes for row in rows)
    if len(body) != expected:
        raise damaged(f"{len(body)} bytes follow its header, expected {expected}")
    tensors, large = _tensors(rows, body), is_large(sum(row.code.size for row in rows))
    whole, checksum = {}, Checksum()
    for packed in tensors:
        values = _decoded(packed)
        checksum.add(packed.row.name, packed.row.shape, values)
        if not large:
            whole[packed.row.name] = torch.from_numpy(values).reshape(packed.row.shape)
        del values  # before the next one is made
    if (digest := checksum.hexdigest()) != expected_digest:
        raise damaged(f"its signs have SHA-256 {digest}, expected {short(expected_digest)}")
    return PackedSigns(tensors, digest) if large else whole, metadata


def _limit(size: int) -> int:
    """How many elements a file of so many bytes may have, if its reader does not say."""
    return min(ELEMENTS_PER_BYTE * size, max(FREE_ELEMENTS, TYPICAL_PER_BYTE * size))


def _least_size(elements: int) -> int:
    """The smallest file that a reader takes so many elements from: the inverse of `_limit`."""
    return elements // (ELEMENTS_PER_BYTE if elements <= FREE_ELEMENTS else TYPICAL_PER_BYTE)


def _split(data: bytes, limit: int) -> tuple[bytes, np.ndarray]:
    """The text of the header of a safetensors file, and the bytes after it."""
    if len(data) < 8:
        raise damaged(f"it has {len(data)} bytes, expected 8 at least")
    (length,) = struct.unpack_from("<Q", data)
    most = min(len(data) - 8, MAX_TEXT + _least_size(limit))
    if length > most:
        raise damaged(f"its first 8 bytes announce a header of {length} bytes, expected at most {most}")
    return data[8 : 8 + length], np.frombuffer(data, np.uint8, offset=8 + length)


def _tensors(rows: Sequence[Row], body: np.ndarray) -> list[Packed]:
    """The rows with their streams, which are parts of `body`."""
    lengths = [row.code.position_bytes for row in rows] + [row.code.sign_bytes for row in rows]
    streams = [body[end - length : end] for end, length in zip(accumulate(lengths), lengths, strict=True)]
    return [Packed(*parts) for parts in zip(rows, streams[: len(rows)], streams[len(rows) :], strict=True)]


def _decoded(packed: Packed) -> np.ndarray:
    try:
        return packed.decoded()
    except ValueError as error:
        raise damaged(f"its tensor {short(packed.row.name)}: {error}") from None
