"""JSON that every reader takes, as it has no NaN and no infinity, and that tells whether it is whole."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHECKSUM = "sha256"  # the key under which an object carries the checksum of all its other keys
# Another key, at the other end, says that there is one: else damage to the name of the first would make an object look
# like one from before there were checksums.
CHECKED = "checked_by"


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Plain data as JSON; a number in it that is not finite, however deep, is null.

    Raises: ValueError for what is not plain data.
    """
    try:
        return json.dumps(_finite(value), indent=indent, allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"only plain data can be written as JSON: {error}") from error


def with_checksum(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as they will be read back, and the SHA-256 of them."""
    plain = _unchecked(json.loads(to_json(values)))
    return {CHECKED: CHECKSUM, **plain, CHECKSUM: _checksum(plain)}


def without_checksum(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that `with_checksum` was given; of files from before there were checksums, all of them.

    Raises: ValueError if they have a checksum that is not theirs, or should have one.
    """
    plain = _unchecked(values)
    if plain.keys() != values.keys() and values.get(CHECKSUM) != _checksum(plain):
        raise ValueError(f"it is damaged, or was edited: its {CHECKSUM} is not that of its other keys")
    return plain


def _unchecked(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in (CHECKED, CHECKSUM)}


def read_object(text: str | bytes) -> dict[str, Any]:
    """The JSON object in `text`. Raises: ValueError for anything else, whatever it is."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply to be read") from error
    except ValueError as error:  # not UTF-8, not JSON, or a number of too many digits
        raise ValueError(f"not JSON ({error!s:.200})") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    return value


def read_file(path: Path, *, then: str = "delete it to have it made again") -> dict[str, Any]:
    """The object that `with_checksum` was given, from a file.

    Args:
        then: what to do about a damaged file, for the message.
    Raises: ValueError that names the file if it is damaged; OSError.
    """
    try:
        return without_checksum(read_object(path.read_bytes()))
    except ValueError as error:
        raise ValueError(f"cannot read '{path}': {error}; {then}") from error


def _checksum(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
