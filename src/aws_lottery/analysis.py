"""What else tells about a search: sign flips, negative scales, and the network with its normalization reset."""

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .bare import bare_model, modules_of, parameters_of
from .partition import is_norm, norm_parameters


def sign_flips(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """Share of the weights left in both of two signed masks whose sign differs; NaN if none is left in both.

    Args:
        before, after: name -> values in {-1, 0, 1}, of the same names and shapes (two rounds of a search).
    """
    products = [before[name].flatten() * value.flatten() for name, value in after.items()]
    flipped = sum(int((product < 0).sum()) for product in products)
    common = sum(int(torch.count_nonzero(product)) for product in products)
    return flipped / common if common else math.nan


def negative_gammas(model: nn.Module) -> float:
    """Share of the scales of normalization layers that are below 0; NaN if there are none."""
    modules = [module for module in modules_of(bare_model(model)).values() if is_norm(module)]
    gammas = [module.weight for module in modules if isinstance(getattr(module, "weight", None), Tensor)]
    total = sum(gamma.numel() for gamma in gammas)
    return sum(int((gamma < 0).sum()) for gamma in gammas) / total if total else math.nan


@torch.no_grad()
def with_norms_reset(model: nn.Module, psi_init: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `model` whose normalization parameters are those of `psi_init`: what AWS prepares a network for.

    Re-estimate its BatchNorm statistics (`recalibrate`) before measuring it.

    Args:
        psi_init: name -> tensor; the parameters of a freshly initialized model will do, others are passed over.
    """
    reset = copy.deepcopy(bare_model(model))
    psi = norm_parameters(reset)
    for name, parameter in parameters_of(reset).items():
        if name in psi:
            parameter.copy_(psi_init[name])
    return reset
