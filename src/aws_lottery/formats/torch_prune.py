"""torch.nn.utils.prune: the model's own masks under its hooks. The way back is `SignedMask.from_torch_prune`."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from ..mask import SignedMask
from ..parameters.fitting import fit
from ..parameters.unwrap import modules_of, unwrap


def to_torch_prune_(model: nn.Module, mask: SignedMask) -> None:
    """Put the mask on `model` in place, as torch.nn.utils.prune does: `weight` becomes `weight_orig * weight_mask`,
    computed before each forward. The weights keep their magnitudes and signs; call `mask.apply_(model)` first for the
    signs of the mask.

    Raises: ValueError if the mask does not fit the model, or it is pruned already.
    """
    if torch_prune.is_pruned(unwrap(model)):
        raise ValueError(
            "torch.nn.utils.prune has pruned this model already; make that permanent first by its `remove`"
        )
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
