"""`fit`: which parameter of a model each tensor of a SignedMask is for, and whether it can be multiplied there; and
`masks_for`: the masks of these parameters."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..sharding import as_laid_out
from ..signs import check_finite, check_initialized
from .checkpoint_names import checkpoint_names
from .matching import Names, match
from .partition import norm_parameters
from .unwrap import class_name, parameters_of, unwrap

if TYPE_CHECKING:
    from ..mask import SignedMask


def fit(
    mask: "SignedMask",
    model: nn.Module,
    *,
    exclude: Collection[str] = (),
    names: Names | None = None,
    by: str = "names",
) -> dict[str, str]:
    """`match` for a SignedMask and a model, seen through its wrappers. Raises: ValueError that names both."""
    model = unwrap(model)
    parameters, norms = parameters_of(model), norm_parameters(model)
    try:
        check_initialized(parameters)
        if by == "structure" and not mask.signed:
            raise ValueError("match='structure' needs the signed mask: this one does not tell what it leaves out")
        places = match(
            mask.shapes,
            {name: tuple(parameter.shape) for name, parameter in parameters.items()},
            required=[name for name in parameters if mask.signed and name not in norms],
            head=_head(mask),
            names=names,
            exclude=exclude,
            by=by,
            aliases=(mask.checkpoint_names, checkpoint_names(model)),
        )
        _check_values({place: parameters[place] for place in places.values()})
    except ValueError as error:
        made_for = (mask.config and mask.config.architecture) or "a network that it does not name"
        raise ValueError(
            f"the signed mask does not fit this {class_name(model)}, nothing was changed; "
            f"it was made for {made_for}. {error}"
        ) from None
    return places


def masks_for(mask: "SignedMask", model: nn.Module, places: Mapping[str, str]) -> dict[str, Tensor]:
    """Name in the model -> bool, True where the weight is left, in the shards of the weight if it is sharded; of the
    prunable weights among `places`, which are what `fit` returns, or some of them."""
    parameters = parameters_of(unwrap(model))
    targets = {name: places[name] for name in mask.prunable if name in places}
    return {place: as_laid_out(mask[name], parameters[place]) != 0 for name, place in targets.items()}


def _check_values(parameters: Mapping[str, Tensor]) -> None:
    """Raises: ValueError for what can't be multiplied in place, or would not be 0 where the mask is."""
    check_finite(parameters)
    for name, value in parameters.items():
        if any(size > 1 and stride == 0 for size, stride in zip(value.shape, value.stride(), strict=True)):
            raise ValueError(f"{name}: its elements share memory (expand); give the model a clone of it first")
        if value.is_inference() and not torch.is_inference_mode_enabled():
            raise ValueError(f"{name}: made under torch.inference_mode; make the model, or a clone of it, outside")


def _head(mask: "SignedMask") -> list[str]:
    """Names of the classifier, if it was not pruned: the one of the configuration, or the last matrix."""
    last = next((name for name, shape in reversed(mask.shapes.items()) if len(shape) > 1), "")
    owner = (mask.config and mask.config.classifier) or last.rpartition(".")[0]
    names = [name for name in mask if name.rpartition(".")[0] == owner]
    return [] if set(names) & set(mask.prunable) else names
