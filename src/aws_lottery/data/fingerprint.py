"""What tells the data of one run from that of another, when the run is resumed."""

import hashlib

import torch
from torch import Tensor

from .batches import Images
from .splits import DecodedSplit, ImageSplit

LOOKED_AT = 64  # images of a split that is decoded anew for every batch
_AT_ONCE = 4096


def fingerprint(data: Images | ImageSplit) -> str:
    """16 hexadecimal digits of all labels, all pixels and their preparation; about a second for each GB.

    Of a split that is decoded for every batch, 64 images all over it stand for all.
    """
    digest = hashlib.sha256()
    for tensor in _tensors(data):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        for part in tensor.split(_AT_ONCE):
            digest.update(part.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    if isinstance(data, ImageSplit):
        digest.update(f"{data.augmentation} {data.mean} {data.std}".encode())
    return digest.hexdigest()[:16]


def _tensors(data: Images | ImageSplit) -> tuple[Tensor, ...]:
    if not isinstance(data, ImageSplit):
        return data.tensors
    if isinstance(data, DecodedSplit):
        return data.labels, data.images
    some = range(0, len(data), max(1, len(data) // LOOKED_AT))
    return data.labels, *(data.views([index], None)[0] for index in some)
