"""Statistics of a search: sign flips, negative scales, and the network with its normalization reset."""

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..parameters.partition import is_norm, norm_parameters
from ..parameters.unwrap import modules_of, parameters_of, unwrap
from ..signs import check_shapes


def sign_flips(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """Share of the weights left in both of two signed masks whose sign differs; NaN if none is left in both.

    Args:
        before, after: signed masks of one model (two rounds of a search): name -> values in {-1, 0, 1}. All of their
            tensors count, prunable or signed only; a bias of 0 has no sign and counts as not left.
    Raises: ValueError if they differ in names or shapes.
    """
    for some, other in ((before, after), (after, before)):
        check_shapes(some, other, "sign_flips: signed mask")
    products = [before[name].flatten() * value.flatten() for name, value in after.items()]
    flipped = sum(int((product < 0).sum()) for product in products)
    common = sum(int(torch.count_nonzero(product)) for product in products)
    return flipped / common if common else math.nan


def negative_gammas(model: nn.Module) -> float:
    """Share of the scales of normalization layers that are below 0; NaN if there are none."""
    weights = [getattr(m, "weight", None) for m in modules_of(unwrap(model)).values() if is_norm(m)]
    gammas = [weight for weight in weights if isinstance(weight, Tensor)]
    total = sum(gamma.numel() for gamma in gammas)
    return sum(int((gamma < 0).sum()) for gamma in gammas) / total if total else math.nan


@torch.no_grad()
def with_norms_reset(model: nn.Module, psi_init: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `model` whose normalization parameters are those of `psi_init`: what AWS prepares a network for.

    Re-estimate its BatchNorm statistics (`recalibrate`) before measuring it.

    Args:
        psi_init: name -> tensor; the parameters of a freshly initialized model will do, other names are ignored.
    Raises: ValueError if a normalization parameter is not in `psi_init`, or has another shape there.
    """
    reset = copy.deepcopy(unwrap(model))
    names = norm_parameters(reset)
    psi = {name: parameter for name, parameter in parameters_of(reset).items() if name in names}
    check_shapes({name: psi_init[name] for name in psi if name in psi_init}, psi, "psi_init")
    for name, parameter in psi.items():
        if name not in psi_init:
            raise ValueError(f"psi_init lacks '{name}', a normalization parameter of the model")
        parameter.copy_(psi_init[name])
    return reset
