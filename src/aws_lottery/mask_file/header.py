"""The JSON header of the file of a signed mask: a row for each tensor, and the metadata (docs/format.md).

A header may come from a stranger: what `parse` returns is consistent in itself and within the limit, or it raises
PackingError.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from reprlib import repr as short  # what a hostile file holds can be millions of characters long
from typing import Any, NamedTuple

from . import golomb_rice

FORMAT = "aws_lottery.signed_mask"
FORMAT_VERSION = 1
MAX_TEXT = 1 << 22  # bytes of header: room for 50,000 tensors
MAX_DIMENSIONS = 64  # as in numpy

_OURS = ("format", "format_version", "sha256", "tensors")  # metadata keys
_COLUMNS = ["name", "shape", "nonzeros", "negatives", "k", "quotient_bytes"]


class PackingError(ValueError):
    """The bytes are not a signed mask that this version can read and verify."""


class AnotherFile(PackingError):
    """The file is not the one that was asked for."""


class Row(NamedTuple):
    """A tensor of the mask: a row of the table."""

    name: str
    shape: Sequence[int]
    code: golomb_rice.Code


def header_of(rows: Sequence[Row], metadata: Mapping[str, str], sha256: str) -> bytes:
    """The header of a file with these rows.

    Args:
        metadata: entries of the caller's own.
        sha256: of the decoded signs.
    Raises: ValueError for an entry that is not text or has a key of ours, or if the header is too long.
    """
    for key, value in metadata.items():
        if key in _OURS or not isinstance(key, str) or not isinstance(value, str):
            raise ValueError(f"metadata {key!r}: {value!r} must be strings, and the key none of {_OURS}")
    table = [_COLUMNS, *([row.name, row.shape, *row.code[1:]] for row in rows)]
    ours = (FORMAT, str(FORMAT_VERSION), sha256, _dumps(table))
    header = {"__metadata__": {**metadata, **dict(zip(_OURS, ours, strict=True))}, **_streams(rows)}
    text = _dumps(header).encode()
    if len(text) > MAX_TEXT:
        raise ValueError(f"names and metadata take {len(text)} bytes, at most {MAX_TEXT} can be kept")
    return text


def parse(text: bytes, limit: int) -> tuple[list[Row], dict[str, str], str]:
    """The inverse of `header_of`, for text from any source: the rows, the caller's metadata, the SHA-256 of the signs.

    Args:
        limit: elements that all tensors may have together.
    Raises: PackingError.
    """
    header = _loads(text, "header")
    if not isinstance(header, dict):
        raise damaged(f"its header is {short(header)}, expected a JSON object")
    metadata = _parse_metadata(header)
    rows = _parse_table(metadata["tensors"], limit)
    streams = {key: value for key, value in header.items() if key != "__metadata__"}
    if _dumps(streams) != _dumps(_streams(rows)):  # as text: 1, 1.0 and true are equal in Python
        raise damaged(f"its header has the tensors {short(streams)}, expected {_streams(rows)}")
    return rows, {key: value for key, value in metadata.items() if key not in _OURS}, metadata["sha256"]


def _streams(rows: Sequence[Row]) -> dict[str, dict]:
    """The entries of the safetensors header."""
    split = sum(row.code.position_bytes for row in rows)
    end = split + sum(row.code.sign_bytes for row in rows)
    offsets = {"positions": [0, split], "signs": [split, end]}
    return {
        key: {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}
        for key, (start, stop) in offsets.items()
    }


def _parse_metadata(header: dict[str, Any]) -> dict[str, str]:
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise PackingError(f"its metadata lack 'format': '{FORMAT}'; does it hold weights, not signs?")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise damaged(f"its metadata are {short(metadata)}, expected strings only")
    version = metadata.get("format_version", "")
    if re.fullmatch("[1-9][0-9]{0,8}", version) and int(version) > FORMAT_VERSION:
        raise PackingError(
            f"its format version is {version}, this aws_lottery reads {FORMAT_VERSION}; "
            "upgrade: pip install --upgrade aws_lottery"
        )
    if version != str(FORMAT_VERSION):
        raise damaged(f"its format version is {short(version)}, expected '{FORMAT_VERSION}'")
    if missing := set(_OURS) - metadata.keys():
        raise damaged(f"its metadata lack {sorted(missing)}")
    return metadata


def _parse_table(text: str, limit: int) -> list[Row]:
    table = _loads(text.encode(), "table of tensors")
    if not isinstance(table, list) or table[:1] != [_COLUMNS]:
        raise damaged(f"its table of tensors is {short(table)}, expected the columns {_COLUMNS}")
    rows, elements = {}, 0
    for entry in table[1:]:
        row = _parse_row(entry)
        if row.name in rows:
            raise damaged(f"two of its tensors are called {short(row.name)}")
        rows[row.name] = row
        elements += extent(row.shape)
        if elements > limit:  # by how much is not said: it can have too many digits for str()
            raise PackingError(
                f"it declares more than {limit} elements, as many as were asked for or a file of its size may have; if "
                "you expect a mask of this size, give its number of parameters (max_parameters, max_elements)"
            )
    return list(rows.values())


def _parse_row(entry: Any) -> Row:
    match entry:
        case [str(name), list(shape), _, _, _, _] if len(shape) <= MAX_DIMENSIONS:
            numbers = entry[2:]
            # not isinstance: a bool is an int too
            if all(type(n) is int and n >= 0 for n in [*shape, *numbers]):
                code = golomb_rice.Code(math.prod(shape), *numbers)
                if code.is_possible():
                    return Row(name, shape, code)
    raise damaged(f"its table of tensors has {short(entry)}, impossible for the columns {_COLUMNS}")


def extent(shape: Sequence[int]) -> int:
    """Elements, with a dimension of 0 taken for 1: so limited, a shape cannot overflow anything."""
    return math.prod(max(n, 1) for n in shape)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def _loads(text: bytes, what: str) -> Any:
    """Strict JSON: UTF-8, no key twice, no NaN or infinity, no half surrogate pair, no deep nesting."""
    try:
        value = json.loads(text.decode(), object_pairs_hook=_unique)
        _dumps(value).encode()  # fails for what loads lets pass
    except (ValueError, RecursionError) as error:
        raise damaged(f"its {what} is not proper JSON: {short(str(error))}") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)


def damaged(what: str) -> PackingError:
    """The error for a file that is not as it was written; `what` says where."""
    return PackingError(f"{what}; it is damaged: download it again")
