"""torch.nn.utils.prune: the model's own masks under its hooks. The way back is `SignedMask.from_torch_prune`."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from ..mask import SignedMask
from ..parameters.fitting import fit
from ..parameters.unwrap import modules_of, unwrap


def to_torch_prune_(model: nn.Module, mask: SignedMask) -> None:
    """Put the mask on `model` as torch.nn.utils.prune does, in place: `weight` is `weight_orig * weight_mask` from now
    on, computed before each forward. Magnitudes and signs stay as they are; `mask.apply_(model)` first gives it those.

    Raises: ValueError if the mask does not fit the model, or it is pruned already.
    """
    if torch_prune.is_pruned(unwrap(model)):
        raise ValueError("torch.nn.utils.prune has pruned this model already; its `remove` makes that final")
    modules = modules_of(unwrap(model))
    for name, place in fit(mask, model).items():
        if name in mask.prunable:
            owner, _, leaf = place.rpartition(".")
            parameter = getattr(modules[owner], leaf)
            torch_prune.custom_from_mask(modules[owner], leaf, (mask[name] != 0).to(parameter.device))


def pruned_state_dict(weights: Mapping[str, Tensor], mask: SignedMask) -> dict[str, Tensor]:
    """The state_dict of a model that torch.nn.utils.prune pruned: `weight_orig` and `weight_mask` for each `weight`.

    Args:
        weights: name -> parameter or buffer, with the names of the mask.
    """
    state = {}
    for name, value in weights.items():
        if name in mask.prunable:
            state |= {f"{name}_orig": value, f"{name}_mask": (mask[name] != 0).to(value.dtype)}
        else:
            state[name] = value
    return state
