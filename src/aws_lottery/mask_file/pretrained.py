"""The folder of a signed mask: config.json, for people and for the Hub's count of downloads, and the signs.

`signed_mask.safetensors` (docs/packing.md) is all that `apply_` needs; config.json says where the mask is from.
Both may come from strangers: what `read` returns has the types that it promises, or it raises ValueError.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import __version__, signs
from ..atomic import replace_file
from ..config import SignedMaskConfig
from . import packing
from .provenance import Provenance, Result

CONFIG_FILE, MASK_FILE, CARD_FILE = "config.json", "signed_mask.safetensors", "README.md"
FORMAT_VERSION = 1  # of config.json
MAX_CONFIG_BYTES = 1 << 20


def write(folder: Path, mask: Any) -> None:
    """Write both files of a SignedMask into an existing folder; each replaced whole."""
    roles = {
        "parameters": mask.parameters,
        "signed": mask.signed,
        "signed_only": [name for name in mask if name not in set(mask.prunable)],
    }
    packing.write(folder / MASK_FILE, mask, {"signed_mask": json.dumps(roles)})
    config = {
        "format_version": FORMAT_VERSION,
        "library_name": "aws_lottery",
        "library_version": __version__,
        "config": mask.config.to_dict() if mask.config else None,
        "remaining": mask.remaining,
        "remaining_total": mask.remaining_total,
        "results": [vars(result) for result in mask.results],
        "provenance": vars(mask.provenance) if mask.provenance else None,
    }
    replace_file(folder / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())


def read(folder: Path) -> dict[str, Any]:
    """The arguments of SignedMask, from the two files. Keys of config.json that it does not know are passed over.

    Raises: ValueError that names the file and what is wrong with it; FileNotFoundError.
    """
    for name in (CONFIG_FILE, MASK_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {name} in '{folder}'; it should be a folder that save_pretrained wrote")
    values, metadata = packing.read(folder / MASK_FILE)
    with _reading(folder / MASK_FILE):
        roles = _roles(values, _object(metadata["signed_mask"]))
    with _reading(folder / CONFIG_FILE), open(folder / CONFIG_FILE, "rb") as file:
        told = _told(file.read(MAX_CONFIG_BYTES + 1))
        found = signs.remaining({name: values[name] for name in roles["prunable"]})
        if not isinstance(said := told.pop("remaining"), float) or not math.isclose(said, found):
            raise ValueError(f"it says that {said!r:.100} remains, {MASK_FILE} has {found}: they are of two masks")
    return {"values": values, **roles, **told}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"cannot read '{path}': {error!s:.1000}") from error  # it may hold all of a hostile file


def _roles(values: dict[str, Tensor], roles: dict[str, Any]) -> dict[str, Any]:
    parameters, signed, signed_only = roles["parameters"], roles["signed"], roles["signed_only"]
    if (
        type(parameters) is not int
        or type(signed) is not bool
        or type(signed_only) is not list
        or parameters < sum(value.numel() for value in values.values())
        or not set(signed_only) <= values.keys()
        or not (signed or all(value.numel() == 0 or value.min() >= 0 for value in values.values()))
    ):
        raise ValueError(f"its roles do not fit its tensors: {roles!r:.200}")
    prunable = tuple(name for name in values if name not in set(signed_only))
    return {"parameters": parameters, "signed": signed, "prunable": prunable}


def _told(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_CONFIG_BYTES:
        raise ValueError(f"more than {MAX_CONFIG_BYTES} bytes")
    told = _object(data)
    if type(version := told.get("format_version")) is not int or told.get("library_name") != "aws_lottery":
        raise ValueError("not the configuration of a signed mask")
    if version > FORMAT_VERSION:
        raise ValueError(f"format version {version}, this aws_lottery reads {FORMAT_VERSION}; install a newer one")
    config, about = told.get("config"), told.get("provenance")
    return {
        "config": None if config is None else SignedMaskConfig.from_dict(config),
        "results": [Result(**result) for result in told.get("results", [])],
        "provenance": None if about is None else Provenance(**about),
        "remaining": told.get("remaining"),
    }


def _object(text: str | bytes) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    return value
