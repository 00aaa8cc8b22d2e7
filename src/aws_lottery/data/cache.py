"""Tensors kept in a file, so that a second run starts at once; a file that isn't whole is made again, not trusted."""

import hashlib
import json
import logging
import os
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

logger = logging.getLogger(__name__)
Tensors = dict[str, Tensor]


def cached(folder: Path, name: str, key: Mapping[str, str], build: Callable[[], Tensors]) -> Tensors:
    """The tensors that `build` makes, memory-mapped from a file in `folder` if they were made before.

    Processes that want the same file at the same time wait for the one that came first.

    Args:
        folder: made if need be; if it can't be written, nothing is kept.
        name: start of the file's name, to tell files apart by eye.
        key: all that the tensors depend on.
        build: makes the tensors.

    Returns:
        What `build` made, now or before.
    """
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()
    path = folder / f"{_file_name(name)}-{digest[:16]}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(f"{path}.lock").acquire()
    except OSError as error:
        logger.warning("%s can't be written (%s): nothing is cached", folder, error)
        return build()
    with held:
        for leftover in folder.glob(f"{path.stem}.*.tmp"):  # of a process that was killed while it wrote
            leftover.unlink()
        tensors = _read(path, key) if path.exists() else None
        return _built(path, key, build) if tensors is None else tensors


def _file_name(name: str) -> str:
    """What a data set calls itself, as the start of a file's name: it never leads to another folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".-")[:80]


def _read(path: Path, key: Mapping[str, str]) -> Tensors | None:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        logger.warning("%s is broken (%s): made again", path, error)
        return None
    if metadata != {**key, "crc32": _checksum(tensors)}:
        logger.warning("%s does not hold what its name says: made again", path)
        return None
    logger.info("read from %s", path)
    return tensors


def _built(path: Path, key: Mapping[str, str], build: Callable[[], Tensors]) -> Tensors:
    tensors = build()
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, {**key, "crc32": _checksum(tensors)})
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
        logger.info("written to %s", path)
    except (OSError, SafetensorError) as error:
        logger.warning("%s can't be written (%s): next time it is made again", path, error)
    finally:
        temporary.unlink(missing_ok=True)
    return tensors


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(tensors: Tensors) -> str:
    """CRC-32 over names, types, shapes and all bytes: 2 GB/s."""
    value = 0
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.contiguous().view(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
