"""The folder of a signed mask: config.json, for people and for the Hub's count of downloads, and the signs.

`signed_mask.safetensors` (docs/format.md) is all that `apply_` needs; config.json says where the mask is from, by a
checksum which signs are beside it, and by another one whether it is whole itself. Both may come from strangers: what
`read` returns has the types that it promises, or it raises ValueError.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .. import __version__
from ..atomic import remove_leftovers, replace_file
from ..config import SignedMaskConfig
from ..strict_json import CHECKSUM, read_object, to_json, with_checksum, without_checksum
from ..summaries import some_text
from . import packing
from .packed_signs import count, entries_of, remaining_of
from .provenance import Provenance, Result

if TYPE_CHECKING:
    from ..mask import SignedMask

CONFIG_FILE, MASK_FILE, CARD_FILE = "config.json", "signed_mask.safetensors", "README.md"
MASK_SHA256 = "signed_mask_sha256"  # key of config.json: of the bytes of the file beside it
FORMAT_VERSION = 1  # of config.json
MAX_CONFIG_BYTES = 1 << 20
ATTEMPTS = 10  # at reading a mask that is being replaced


def write(folder: Path, mask: "SignedMask", card: str) -> None:
    """Write the files of a SignedMask and its card into an existing folder, whatever mask it holds.

    A reader finds the mask that was there or the new one, also where this is killed; one process writes at a time.
    The new signs come first, under a name of their own, then config.json, which says by their checksum that they are
    the ones that count, then they get their name.

    Raises: ValueError, before anything is written, for what can't be kept; OSError.
    """
    signs_file = packed(mask)
    digest = hashlib.sha256(signs_file).hexdigest()
    config_file = (to_json(with_checksum(_config(mask, digest)), indent=2) + "\n").encode()
    staged = _staged(folder, digest)
    replace_file(staged, signs_file)
    try:
        replace_file(folder / CONFIG_FILE, config_file)
    except OSError:
        staged.unlink()
        raise
    staged.replace(folder / MASK_FILE)
    replace_file(folder / CARD_FILE, card.encode())
    for leftover in folder.glob(_staged(folder, "*").name):  # of writers that were killed
        leftover.unlink(missing_ok=True)
    remove_leftovers(folder)


def packed(mask: "SignedMask") -> bytes:
    """What `write` puts into the file of the signs."""
    roles = {
        "parameters": mask.parameters,
        "signed": mask.signed,
        "signed_only": [name for name in mask if name not in set(mask.prunable)],
        **({"checkpoint_names": mask.checkpoint_names} if mask.checkpoint_names else {}),
    }
    return packing.pack(mask.signs, {"signed_mask": to_json(roles)})


def _config(mask: "SignedMask", digest: str) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "library_name": "aws_lottery",
        "library_version": __version__,
        "config": mask.config.to_dict() if mask.config else None,
        "remaining": mask.remaining,
        "remaining_total": mask.remaining_total,
        "results": [vars(result) for result in mask.results],
        "provenance": vars(mask.provenance) if mask.provenance else None,
        MASK_SHA256: digest,
    }


def _staged(folder: Path, digest: str) -> Path:
    """Where signs are until they get their name."""
    return folder / f".signed_mask-{digest[:16]}.safetensors"


def read(folder: Path, *, max_parameters: int | None = None) -> dict[str, Any]:
    """The arguments of SignedMask, from the two files. Keys of config.json that it does not know are passed over.

    Args:
        max_parameters: entries that the mask may have; None: what `packing.unpack` lets pass.
    Raises: ValueError that names the file and what is wrong with it; FileNotFoundError.
    """
    staged = any(folder.glob(_staged(folder, "*").name))
    for name, there in ((CONFIG_FILE, False), (MASK_FILE, staged)):
        if not there and not (folder / name).is_file():
            inside = some_text(repr(path.parent.name) for path in sorted(folder.glob(f"*/{CONFIG_FILE}")))
            wanted = f"take one of the folders in it: {inside}" if inside else "it should be one"
            raise FileNotFoundError(f"no {name} in '{folder}', so it is no folder that save_pretrained wrote; {wanted}")
    for _ in range(ATTEMPTS):
        text = _config_text(folder / CONFIG_FILE)
        with _reading(folder / CONFIG_FILE):
            about = _about(text)
        signs_file = _signs_of(folder, about.pop(MASK_SHA256), max_parameters)
        if signs_file is not None and text == _config_text(folder / CONFIG_FILE):
            values, metadata = signs_file
            break
    else:
        packing.read(folder / MASK_FILE, max_elements=max_parameters)  # tells what is wrong with it, if anything is
        raise ValueError(
            f"cannot read '{folder / CONFIG_FILE}': it is of another mask than {MASK_FILE} beside it, whose SHA-256 is "
            f"not its {MASK_SHA256}"
        )
    with _reading(folder / MASK_FILE):
        roles = _roles(values, read_object(metadata["signed_mask"]))
    with _reading(folder / CONFIG_FILE):
        share, left = about.pop("remaining"), remaining_of(values, roles["prunable"])
        if not isinstance(share, float) or not math.isclose(share, left):
            raise ValueError(f"it says that {share!r:.100} remains, {MASK_FILE} has {left}: they are of two masks")
    return {"values": values, **roles, **about}


def _signs_of(folder: Path, digest: str | None, max_parameters: int | None) -> packing.Unpacked | None:
    """What is in the file with that SHA-256, None if there is none; where config.json tells none, as the first ones
    did, in the file that is there."""
    for path in (folder / MASK_FILE, *([_staged(folder, digest)] if digest else [])):
        try:
            return packing.read(path, max_elements=max_parameters, file_sha256=digest)
        except (packing.AnotherFile, FileNotFoundError):
            continue
    return None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"cannot read '{path}': {error!s:.1000}") from error  # it may hold all of a hostile file


def _roles(values: Mapping[str, Tensor], roles: dict[str, Any]) -> dict[str, Any]:
    parameters, signed, signed_only = roles["parameters"], roles["signed"], roles["signed_only"]
    names = roles.get("checkpoint_names", {})
    if (
        type(parameters) is not int
        or type(signed) is not bool
        or type(signed_only) is not list
        or parameters < entries_of(values)
        or not set(signed_only) <= values.keys()
        or type(names) is not dict
        or not names.keys() <= values.keys()
        or not all(type(name) is str for name in names.values())
        or not (signed or all(count(values, name).negatives == 0 for name in values))
    ):
        raise ValueError(f"its roles do not fit its tensors: {roles!r:.200}")
    prunable = tuple(name for name in values if name not in set(signed_only))
    return {"parameters": parameters, "signed": signed, "prunable": prunable, "checkpoint_names": names}


def _config_text(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(MAX_CONFIG_BYTES + 1)


def _about(text: bytes) -> dict[str, Any]:
    """What config.json tells: the arguments of SignedMask, `remaining`, and the checksum of the signs."""
    if len(text) > MAX_CONFIG_BYTES:
        raise ValueError(f"more than {MAX_CONFIG_BYTES} bytes")
    config_file = read_object(text)
    if (
        type(version := config_file.get("format_version")) is not int
        or config_file.get("library_name") != "aws_lottery"
    ):
        raise ValueError("not the configuration of a signed mask")
    if version > FORMAT_VERSION:
        raise ValueError(f"format version {version}, this aws_lottery reads {FORMAT_VERSION}; install a newer one")
    if (MASK_SHA256 in config_file) != (CHECKSUM in config_file):  # the first files had neither
        raise ValueError(f"it is damaged, or was edited: it has one of {MASK_SHA256} and {CHECKSUM} without the other")
    config_file = without_checksum(config_file)
    digest = config_file.get(MASK_SHA256)
    if digest is not None and not (isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)):
        raise ValueError(f"its {MASK_SHA256} is {digest!r:.100}, expected 64 hexadecimal digits")
    config, about = config_file.get("config"), config_file.get("provenance")
    return {
        "config": None if config is None else SignedMaskConfig.from_dict(config),
        "results": [Result(**result) for result in config_file.get("results", [])],
        "provenance": None if about is None else Provenance(**about),
        "remaining": config_file.get("remaining"),
        MASK_SHA256: digest,
    }
