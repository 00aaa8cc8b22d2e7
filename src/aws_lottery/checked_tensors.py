"""Files of tensors that tell whether they are whole: safetensors, with a checksum of all tensors in the metadata."""

import hashlib
import os
from collections.abc import Mapping

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

CHECKSUM = "sha256"  # key of the metadata


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of the file.

    Args:
        tensors: contiguous, on the CPU.
        metadata: of the caller, such as what the tensors belong to; the checksum covers it as well.
    """
    sealed = {**metadata, CHECKSUM: _checksum(tensors, metadata)}
    return safetensors.torch.save(dict(tensors), sealed)


def read(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, and the metadata that `to_bytes` was given; both unchecked if the file has no metadata at all, as
    those that were written before there were checksums.

    Raises: ValueError that names the file if it is damaged; OSError.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"cannot read '{os.fspath(path)}', it is damaged: {error!s:.500}") from error
    recorded = metadata.pop(CHECKSUM, None)
    if (recorded or metadata) and recorded != _checksum(tensors, metadata):
        raise ValueError(f"cannot read '{os.fspath(path)}': its tensors are not those that its {CHECKSUM} is of")
    return tensors, metadata


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
