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
from . import golomb_rice
from .header import (
    FORMAT,
    FORMAT_VERSION,
    MAX_DIMENSIONS,
    MAX_TEXT,
    AnotherFile,
    PackingError,
    Row,
    damaged,
    extent,
    header_of,
    parse,
)

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

Unpacked = tuple[dict[str, Tensor], dict[str, str]]  # name -> signs, and the caller's metadata


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
    flat = {name: _flat(name, value) for name, value in signs.items()}
    coded = {name: golomb_rice.encode(values) for name, values in flat.items()}
    rows = [Row(name, list(signs[name].shape), code) for name, (code, _, _) in coded.items()]
    header = header_of(rows, metadata, _sha256({row.name: row.shape for row in rows}, flat))
    streams = [positions for _, positions, _ in coded.values()] + [signs for _, _, signs in coded.values()]
    least = _least_size(sum(extent(row.shape) for row in rows)) - sum(map(len, streams))
    header = header.ljust(-(-max(len(header), least) // 8) * 8)
    return b"".join([struct.pack("<Q", len(header)), header, *streams])


def unpack(data: bytes, *, max_elements: int | None = None) -> Unpacked:
    """The inverse of `pack`, for bytes from any source.

    A file needs no bytes for a tensor of any size that is all 0 or all +1, so the number of elements that it declares
    is compared with a limit before anything is allocated. Without `max_elements` the limit is 64 Mi elements or, if
    that is more, 64 for each byte of the file. A caller that knows the model passes its number of parameters: then no
    file takes more memory than a proper one, which is its own size, a byte for each element and about a megabyte of
    scratch, or 190 MB to parse the worst header. In any case there are at most 1024 elements for each byte of the
    file. `pack` pads the masks that take fewer bytes.

    Args:
        max_elements: of all tensors together; a dimension of 0 counts as 1; None: as above.
    Returns: name -> int8 in {-1, 0, 1}, in the order that `pack` was given, and the caller's metadata.
    Raises: PackingError, whatever the bytes, unless they are a signed mask and its checksum is right.
    """
    limit = _limit(len(data)) if max_elements is None else min(max_elements, ELEMENTS_PER_BYTE * len(data))
    header, body = _split(data, limit)
    rows, metadata, sha256 = parse(header, limit)
    expected = sum(row.code.position_bytes + row.code.sign_bytes for row in rows)
    if len(body) != expected:
        raise damaged(f"{len(body)} bytes follow its header, expected {expected}")
    flat = _decode(rows, body)
    digest = _sha256({row.name: row.shape for row in rows}, flat)
    if digest != sha256:
        raise damaged(f"its signs have SHA-256 {digest}, expected {short(sha256)}")
    return {row.name: torch.from_numpy(flat[row.name]).reshape(row.shape) for row in rows}, metadata


def _flat(name: str, value: Tensor) -> np.ndarray:
    if value.dtype != torch.int8 or (value.numel() and (value.min() < -1 or value.max() > 1)):
        raise ValueError(f"signed mask '{name}' must be int8 in {{-1, 0, 1}}; use aws_lottery.sign0")
    if value.ndim > MAX_DIMENSIONS:
        raise ValueError(f"signed mask '{name}' has {value.ndim} dimensions, at most {MAX_DIMENSIONS} fit")
    return value.detach().cpu().reshape(-1).numpy()


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


def _decode(rows: Sequence[Row], body: np.ndarray) -> dict[str, np.ndarray]:
    """name -> flat int8 signs."""
    lengths = [row.code.position_bytes for row in rows] + [row.code.sign_bytes for row in rows]
    streams = [body[end - length : end] for end, length in zip(accumulate(lengths), lengths, strict=True)]
    flat = {}
    for row, positions, signs in zip(rows, streams[: len(rows)], streams[len(rows) :], strict=True):
        try:
            flat[row.name] = golomb_rice.decode(row.code, positions, signs)
        except ValueError as error:
            raise damaged(f"its tensor {short(row.name)}: {error}") from None
    return flat


def sha256(signs: Mapping[str, Tensor]) -> str:
    """The checksum of a signed mask as its file has it, which tells masks apart."""
    return _sha256(
        {name: value.shape for name, value in signs.items()},
        {name: _flat(name, value) for name, value in signs.items()},
    )


def _sha256(shapes: Mapping[str, Sequence[int]], flat: Mapping[str, np.ndarray]) -> str:
    """Of each tensor in turn: length of the name, name, number of dimensions, dimensions, signs."""
    digest = hashlib.sha256()
    for tensor, shape in shapes.items():
        name = tensor.encode()
        digest.update(struct.pack(f"<Q{len(name)}sQ{len(shape)}Q", len(name), name, len(shape), *shape))
        digest.update(flat[tensor].data)
    return digest.hexdigest()
