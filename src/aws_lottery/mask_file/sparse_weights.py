"""The weights that go with a signed mask: survivors only, in files beside it."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import Tensor, nn

from .. import checked_tensors
from ..atomic import replace_file
from ..config import METHODS
from ..parameters.unwrap import state_of
from . import packing

if TYPE_CHECKING:
    from ..mask import SignedMask

MASK = "signed_mask"  # key of the metadata: the checksum of the signs
WEIGHTS_FILE, REWOUND_FILE = "weights.safetensors", "rewound.safetensors"


def save_weights(
    folder: str | Path,
    weights: nn.Module | Iterable[tuple[str, Tensor]],
    mask: "SignedMask",
    *,
    file: str = WEIGHTS_FILE,
) -> None:
    """Write theta * m to `folder`: of each tensor of the mask its survivors, of other parameters and of buffers all.

    Args:
        weights: a model, or its parameters and buffers with their names, each of which may be made when it is asked
            for. None of them is sharded.
        mask: the SignedMask that the folder holds; what it has a 0 for is left out.
        file: WEIGHTS_FILE for the weights that the search trained, REWOUND_FILE for those that it rewinds to.
    """
    tensors = {}
    for name, tensor in state_of(weights).items() if isinstance(weights, nn.Module) else weights:
        value = tensor.detach().cpu()
        tensors[name] = value[mask[name] != 0] if name in mask else value.contiguous()
    replace_file(Path(folder) / file, checked_tensors.to_bytes(tensors, {MASK: packing.sha256(mask.signs)}))


def load_weights(folder: str | Path, mask: "SignedMask", *, file: str = WEIGHTS_FILE) -> dict[str, Tensor]:
    """Name -> parameter or buffer, with zeros where the mask has them: the inverse of `save_weights`.

    Files written before buffers were kept have parameters alone; those from before there were checksums are held
    against the mask by their sizes only.

    Raises: FileNotFoundError; ValueError if the file is damaged, or is not of this mask.
    """
    return dict(each_weight(folder, mask, file=file))


def each_weight(folder: str | Path, mask: "SignedMask", *, file: str = WEIGHTS_FILE) -> Iterator[tuple[str, Tensor]]:
    """The items of `load_weights`, each made when it is asked for, so that a sharded model takes its parts of one whole
    tensor after the other."""
    path = Path(folder) / file
    if not path.is_file():
        raise FileNotFoundError(f"no {file} in '{folder}'; find_signed_mask writes it beside each mask")
    survivors, about = checked_tensors.read(path)
    if about and about.get(MASK) != packing.sha256(mask.signs):
        raise ValueError(f"{path}: its weights are of another mask; are the two of one search and round?")
    for name in list(survivors):
        value = survivors.pop(name)
        if name in mask:
            places = mask[name] != 0
            if value.numel() != int(places.sum()):
                raise ValueError(
                    f"{path}: '{name}' has {value.numel():,} weights, the mask leaves {int(places.sum()):,}; "
                    "are the two of one search and round?"
                )
            value = torch.zeros(places.shape, dtype=value.dtype).masked_scatter_(places, value)
        yield name, value


def solution_weights(folder: str | Path, mask: "SignedMask") -> dict[str, Tensor]:
    """The weights that the solution of a search starts from (Section 3.1): theta_T of methods that keep training their
    weights, theta_0 or theta_warmup, whichever the method rewinds to, of IMP and WR. As `load_weights`.

    Raises: FileNotFoundError that says what to do, as searches by IMP and WR did not always keep what they rewind to.
    """
    if mask.config is None or METHODS[mask.config.method].rewind_to is None:
        return load_weights(folder, mask)
    if not (Path(folder) / REWOUND_FILE).is_file():
        raise FileNotFoundError(
            f"no {REWOUND_FILE} in '{folder}': the solution of '{mask.config.method}' starts from the weights that it "
            f"rewinds to, which the search did not keep; search again, or leave out transfers that take weights"
        )
    return load_weights(folder, mask, file=REWOUND_FILE)


def load_state_file(path: str | Path) -> dict[str, Tensor]:
    """The state_dict in a file of safetensors, or of torch.save, of which only tensors are read.

    Raises: ValueError if it holds no state_dict, or is damaged; OSError.
    """
    try:
        if Path(path).suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what torch.load raises for damaged files is of many kinds
        raise ValueError(
            f"cannot read '{path}', it is damaged or holds more than tensors; safetensors, or a state_dict as "
            "torch.save(model.state_dict(), path) writes it, can be read"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"'{path}' holds no state_dict, as torch.save(model.state_dict(), path) writes it")
    return state
