"""The file of a signed mask: small, the same bytes on every machine, safe to read from strangers.

docs/format.md specifies it. In short: a safetensors file with two uint8 tensors, `positions` (where the
nonzeros are) and `signs`, both coded by golomb_rice.py, and in its metadata a JSON table with a row for each tensor
of the mask, and the SHA-256 of the decoded signs. The safetensors package can open it, but is not used to
write it, because it puts metadata in random order.
"""

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Mapping, Sequence
from itertools import accumulate
from reprlib import repr as short  # what a hostile file holds can be millions of characters long
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..atomic import replace_file
from . import golomb_rice

FORMAT = "aws_lottery.signed_mask"
FORMAT_VERSION = 1
ELEMENTS_PER_BYTE = 1024  # at most, of the file, about the bound of zlib; `pack` pads smaller files
# Unless the reader says how many elements there may be: so many in any file, 64 MiB once decoded, and beyond them
# 64 for each byte of the file, which masks with 1.5 % left or more take by themselves; `pack` pads others.
FREE_ELEMENTS, TYPICAL_PER_BYTE = 1 << 26, 64

Unpacked = tuple[dict[str, Tensor], dict[str, str]]  # name -> signs, and the caller's metadata

_OURS = ("format", "format_version", "sha256", "tensors")  # metadata keys
_COLUMNS = ["name", "shape", "nonzeros", "negatives", "k", "quotient_bytes"]
_MAX_TEXT = 1 << 22  # bytes of header: room for 50,000 tensors
_MAX_DIMENSIONS = 64  # as in numpy


class PackingError(ValueError):
    """The bytes are not a signed mask that this version can read and verify."""


class AnotherFile(PackingError):
    """The file is not the one that was asked for."""


class _Row(NamedTuple):
    """A tensor of the mask: a row of the table."""

    name: str
    shape: Sequence[int]
    code: golomb_rice.Code


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
            if max_elements is not None and size > (most := _MAX_TEXT + 2 * max_elements):  # before it fills the memory
                raise _damaged(f"{size} bytes, expected at most {most} for {max_elements} elements")
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
    rows = [_Row(name, list(signs[name].shape), code) for name, (code, _, _) in coded.items()]
    header = _header(rows, metadata, _sha256({row.name: row.shape for row in rows}, flat))
    if len(header) > _MAX_TEXT:
        raise ValueError(f"names and metadata take {len(header)} bytes, at most {_MAX_TEXT} can be kept")
    streams = [positions for _, positions, _ in coded.values()] + [signs for _, _, signs in coded.values()]
    least = _least_size(sum(_extent(row.shape) for row in rows)) - sum(map(len, streams))
    header = header.ljust(-(-max(len(header), least) // 8) * 8)
    return b"".join([struct.pack("<Q", len(header)), header, *streams])


def unpack(data: bytes, *, max_elements: int | None = None) -> Unpacked:
    """The inverse of `pack`, for bytes from anybody.

    It takes no bytes to say that a tensor of any size is all 0 or all +1, so what a file declares is held
    against a limit before anything is allocated: by itself, 64 Mi elements or, if that is more, 64 for each byte of
    the file. Who knows the model passes its number of parameters; then no file costs more memory than an honest one,
    which is its own size, a byte an element, and about a megabyte of scratch; or 190 MB to parse the worst header.
    In any case there is a byte of the file for 1024 elements. `pack` pads the masks that take less.

    Args:
        max_elements: of all tensors together; a dimension of 0 counts as 1; None: as above.
    Returns: name -> int8 in {-1, 0, 1}, in the order that `pack` was given, and the caller's metadata.
    Raises: PackingError, whatever the bytes, unless they are a signed mask and its checksum is right.
    """
    limit = _limit(len(data)) if max_elements is None else min(max_elements, ELEMENTS_PER_BYTE * len(data))
    header, body = _split(data, limit)
    metadata = _parse_metadata(header)
    rows = _parse_table(metadata["tensors"], limit)
    streams = {key: value for key, value in header.items() if key != "__metadata__"}
    if _dumps(streams) != _dumps(_streams(rows)):  # as text: 1, 1.0 and true are equal in Python
        raise _damaged(f"its header has the tensors {short(streams)}, expected {_streams(rows)}")
    expected = sum(row.code.position_bytes + row.code.sign_bytes for row in rows)
    if len(body) != expected:
        raise _damaged(f"{len(body)} bytes follow its header, expected {expected}")
    flat = _decode(rows, body)
    digest = _sha256({row.name: row.shape for row in rows}, flat)
    if digest != metadata["sha256"]:
        raise _damaged(f"its signs have SHA-256 {digest}, expected {short(metadata['sha256'])}")
    signs = {row.name: torch.from_numpy(flat[row.name]).reshape(row.shape) for row in rows}
    return signs, {key: value for key, value in metadata.items() if key not in _OURS}


def _flat(name: str, value: Tensor) -> np.ndarray:
    if value.dtype != torch.int8 or (value.numel() and (value.min() < -1 or value.max() > 1)):
        raise ValueError(f"signed mask '{name}' must be int8 in {{-1, 0, 1}}; use aws_lottery.sign0")
    if value.ndim > _MAX_DIMENSIONS:
        raise ValueError(f"signed mask '{name}' has {value.ndim} dimensions, at most {_MAX_DIMENSIONS} fit")
    return value.detach().cpu().reshape(-1).numpy()


def _header(rows: Sequence[_Row], metadata: Mapping[str, str], sha256: str) -> bytes:
    for key, value in metadata.items():
        if key in _OURS or not isinstance(key, str) or not isinstance(value, str):
            raise ValueError(f"metadata {key!r}: {value!r} must be strings, and the key none of {_OURS}")
    table = [_COLUMNS, *([row.name, row.shape, *row.code[1:]] for row in rows)]
    ours = (FORMAT, str(FORMAT_VERSION), sha256, _dumps(table))
    header = {"__metadata__": {**metadata, **dict(zip(_OURS, ours, strict=True))}, **_streams(rows)}
    return _dumps(header).encode()


def _streams(rows: Sequence[_Row]) -> dict[str, dict]:
    """The entries of the safetensors header."""
    split = sum(row.code.position_bytes for row in rows)
    end = split + sum(row.code.sign_bytes for row in rows)
    offsets = {"positions": [0, split], "signs": [split, end]}
    return {
        key: {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}
        for key, (start, stop) in offsets.items()
    }


def _limit(size: int) -> int:
    """How many elements a file of so many bytes may have, if its reader does not say."""
    return min(ELEMENTS_PER_BYTE * size, max(FREE_ELEMENTS, TYPICAL_PER_BYTE * size))


def _least_size(elements: int) -> int:
    """The smallest file that a reader takes so many elements from: the inverse of `_limit`."""
    return elements // (ELEMENTS_PER_BYTE if elements <= FREE_ELEMENTS else TYPICAL_PER_BYTE)


def _split(data: bytes, limit: int) -> tuple[dict[str, Any], np.ndarray]:
    """The header of a safetensors file, and the bytes after it."""
    if len(data) < 8:
        raise _damaged(f"it has {len(data)} bytes, expected 8 at least")
    (length,) = struct.unpack_from("<Q", data)
    most = min(len(data) - 8, _MAX_TEXT + _least_size(limit))
    if length > most:
        raise _damaged(f"its first 8 bytes announce a header of {length} bytes, expected at most {most}")
    header = _loads(data[8 : 8 + length], "header")
    if not isinstance(header, dict):
        raise _damaged(f"its header is {short(header)}, expected a JSON object")
    return header, np.frombuffer(data, np.uint8, offset=8 + length)


def _parse_metadata(header: dict[str, Any]) -> dict[str, str]:
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise PackingError(f"its metadata lack 'format': '{FORMAT}'; does it hold weights, not signs?")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(f"its metadata are {short(metadata)}, expected strings only")
    version = metadata.get("format_version", "")
    if re.fullmatch("[1-9][0-9]{0,8}", version) and int(version) > FORMAT_VERSION:
        raise PackingError(
            f"its format version is {version}, this aws_lottery reads {FORMAT_VERSION}; "
            "upgrade: pip install --upgrade aws_lottery"
        )
    if version != str(FORMAT_VERSION):
        raise _damaged(f"its format version is {short(version)}, expected '{FORMAT_VERSION}'")
    if missing := set(_OURS) - metadata.keys():
        raise _damaged(f"its metadata lack {sorted(missing)}")
    return metadata


def _parse_table(text: str, limit: int) -> list[_Row]:
    table = _loads(text.encode(), "table of tensors")
    if not isinstance(table, list) or table[:1] != [_COLUMNS]:
        raise _damaged(f"its table of tensors is {short(table)}, expected the columns {_COLUMNS}")
    rows, elements = {}, 0
    for entry in table[1:]:
        row = _parse_row(entry)
        if row.name in rows:
            raise _damaged(f"two of its tensors are called {short(row.name)}")
        rows[row.name] = row
        elements += _extent(row.shape)
        if elements > limit:  # by how much is not said: it can have too many digits for str()
            raise PackingError(
                f"it declares more than {limit} elements, as many as were asked for or a file of its size may have; if "
                "you expect a mask of this size, give its number of parameters (max_parameters, max_elements)"
            )
    return list(rows.values())


def _parse_row(entry: Any) -> _Row:
    match entry:
        case [str(name), list(shape), _, _, _, _] if len(shape) <= _MAX_DIMENSIONS:
            numbers = entry[2:]
            # not isinstance: a bool is an int too
            if all(type(n) is int and n >= 0 for n in [*shape, *numbers]):
                code = golomb_rice.Code(math.prod(shape), *numbers)
                if code.is_possible():
                    return _Row(name, shape, code)
    raise _damaged(f"its table of tensors has {short(entry)}, impossible for the columns {_COLUMNS}")


def _decode(rows: Sequence[_Row], body: np.ndarray) -> dict[str, np.ndarray]:
    """name -> flat int8 signs."""
    lengths = [row.code.position_bytes for row in rows] + [row.code.sign_bytes for row in rows]
    streams = [body[end - length : end] for end, length in zip(accumulate(lengths), lengths, strict=True)]
    flat = {}
    for row, positions, signs in zip(rows, streams[: len(rows)], streams[len(rows) :], strict=True):
        try:
            flat[row.name] = golomb_rice.decode(row.code, positions, signs)
        except ValueError as error:
            raise _damaged(f"its tensor {short(row.name)}: {error}") from None
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


def _extent(shape: Sequence[int]) -> int:
    """Elements, with a dimension of 0 taken for 1: so limited, a shape cannot overflow anything."""
    return math.prod(max(n, 1) for n in shape)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def _loads(text: bytes, what: str) -> Any:
    """Strict JSON: UTF-8, no key twice, no NaN or infinity, no half surrogate pair, no abyss of brackets."""
    try:
        value = json.loads(text.decode(), object_pairs_hook=_unique)
        _dumps(value).encode()  # fails for what loads lets pass
    except (ValueError, RecursionError) as error:
        raise _damaged(f"its {what} is not proper JSON: {short(str(error))}") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)


def _damaged(what: str) -> PackingError:
    return PackingError(f"{what}; it is damaged: download it again")
