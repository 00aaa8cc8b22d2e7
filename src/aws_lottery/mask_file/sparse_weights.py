"""The trained weights that go with a signed mask: survivors only, in a file beside it."""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ..atomic import replace_file
from ..parameters.unwrap import parameters_of, unwrap

WEIGHTS_FILE = "weights.safetensors"


def save_weights(folder: str | Path, model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    """Write theta * m to `folder`: of each tensor of the mask its survivors, of other parameters all.

    Args:
        mask: the SignedMask that the folder holds; what it has a 0 for is left out.
    """
    kept = {}
    for name, parameter in parameters_of(unwrap(model)).items():
        value = parameter.detach().cpu()
        kept[name] = value[mask[name] != 0] if name in mask else value.contiguous()
    replace_file(Path(folder) / WEIGHTS_FILE, safetensors.torch.save(kept))


def load_weights(folder: str | Path, mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name -> parameter, with zeros where the mask has them: the inverse of `save_weights`.

    Raises: FileNotFoundError; ValueError if the file is not of this mask.
    """
    path = Path(folder) / WEIGHTS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"no {WEIGHTS_FILE} in '{folder}'; find_signed_mask writes it beside each mask")
    weights = {}
    for name, value in safetensors.torch.load_file(path).items():
        if name in mask:
            places = mask[name] != 0
            if value.numel() != int(places.sum()):
                raise ValueError(
                    f"{path}: '{name}' has {value.numel():,} weights, the mask leaves {int(places.sum()):,}; "
                    "are the two of one search and round?"
                )
            value = torch.zeros(places.shape, dtype=value.dtype).masked_scatter_(places, value)
        weights[name] = value
    return weights
