"""Where a final training starts: what theta takes over from a search, and what stays as freshly initialized."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .mask import SignedMask
from .mask_file.packed_signs import entries_of, pack_if_large
from .mask_file.provenance import DENSE, MASK_ONLY, RANDOM_SIGNS, SIGNED
from .parameters.partition import norm_parameters
from .parameters.unwrap import buffers_of, parameters_of, state_of, unwrap

SHIFTED_BIAS = 0.1  # of normalization layers in psi*_init (Appendix A)


@dataclass(frozen=True)
class Transfer:
    """theta = [phi, psi] before the final training; a search has left theta_T, m_T and s_T.

    With IMP and WR, which rewind, theta_T stands for the weights that they rewind to (`solution_weights`).

    Args:
        condition: what tables, plots and cards call it.
        mask: takes the signed mask s_T and the seed to the mask that is applied; None: a dense network.
        phi: magnitudes outside normalization: those of the fresh `init`, or those of the `search`; with the latter
            come its buffers, as the statistics of BatchNorm belong to them.
        psi: parameters of normalization: those of the `init`; those of the `search`; |psi_init| with the signs of psi_T
            (`signs`: the paper's formula, taken literally); or psi*_init with the signs of psi_T (`shifted`: scale 1,
            bias 0.1).
        marker: of its points in figures, as matplotlib names it; None: one that no row names.
        color: of its line in figures; None: likewise.
    """

    condition: str
    mask: Callable[[SignedMask, int], SignedMask] | None
    phi: Literal["init", "search"] = "init"
    psi: Literal["init", "search", "signs", "shifted"] = "init"
    marker: str | None = None
    color: str | None = None

    @property
    def needs_weights(self) -> bool:
        """Whether it takes trained weights, not only the signed mask."""
        return self.phi == "search" or self.psi != "init"


def _signed(mask: SignedMask, seed: int) -> SignedMask:
    return mask


def _mask_only(mask: SignedMask, seed: int) -> SignedMask:
    return mask.binary()


def _random_signs(mask: SignedMask, seed: int) -> SignedMask:
    return mask.with_random_signs(seed)


def _shuffled(mask: SignedMask, seed: int) -> SignedMask:
    """As many weights in each layer, in random places."""
    generator, binary = torch.Generator().manual_seed(seed), mask.binary()
    values = (
        (name, value.flatten()[torch.randperm(value.numel(), generator=generator)].view_as(value))
        for name, value in binary.items()
    )
    return SignedMask(
        pack_if_large(values, entries_of(binary.signs)),
        binary.config,
        parameters=binary.parameters,
        signed=False,
        checkpoint_names=binary.checkpoint_names,
    )


TRANSFERS: dict[str, Transfer] = {  # in the order of tables and legends
    "dense": Transfer(DENSE, None, marker="", color="black"),
    "solution": Transfer("solution", _mask_only, phi="search", psi="search", marker="o", color="tab:gray"),
    "signs": Transfer(SIGNED, _signed, marker="^", color="tab:brown"),
    "mask": Transfer(MASK_ONLY, _mask_only, marker="x", color="tab:purple"),
    # Figure 2
    "signs-norm": Transfer("fresh + signed mask, norm kept", _signed, psi="search", marker="D", color="tab:cyan"),
    "signs-norm-signs": Transfer(
        "fresh + signed mask, norm signs too", _signed, psi="signs", marker="<", color="tab:olive"
    ),
    # Figure 5
    "signs-norm-shifted": Transfer(
        "fresh + signed mask, norm shifted", _signed, psi="shifted", marker="P", color="tab:pink"
    ),
    "random-signs": Transfer(RANDOM_SIGNS, _random_signs, marker="*", color="darkgoldenrod"),
    "shuffled-mask": Transfer("fresh + shuffled mask", _shuffled, marker="+", color="slategray"),
    "magnitudes": Transfer(
        "solution, random signs", _random_signs, phi="search", psi="search", marker="s", color="black"
    ),
}


@torch.no_grad()
def transfer_(
    model: nn.Module,
    transfer: Transfer,
    mask: SignedMask,
    *,
    weights: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> None:
    """Turn a freshly initialized `model` into the start of a final training, held to its mask (SignedMask.held).

    A bias that is initialized at 0 takes no sign from the mask (docs/notes/initialization.md).

    Args:
        model: changed in place.
        transfer: a row of TRANSFERS.
        mask: s_T, with its shape of the model.
        weights: name -> parameter or buffer, theta_T (`solution_weights`); needed by a transfer that says so.
        seed: of random signs and shuffles.

    Raises:
        ValueError: If trained weights are needed and missing, if they or the mask do not fit, or if the model is held
            already; nothing is changed then.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from aws_lottery import TRANSFERS, SignedMask, detach, transfer_
        >>> mask = SignedMask({"weight": torch.tensor([[1, -1]], dtype=torch.int8)})
        >>> fresh = nn.Linear(2, 1, bias=False)
        >>> transfer_(fresh, TRANSFERS["signs"], mask)
        >>> fresh.weight.sign().tolist()
        [[1.0, -1.0]]
        >>> detach(fresh)  # after the training
    """
    if transfer.mask is None:
        return
    trained = _fitting(weights, model, transfer) if transfer.needs_weights else {}
    chosen = transfer.mask(mask, seed)
    chosen.held(model)  # or an error, before anything is changed
    _take_weights_(model, transfer, trained)
    chosen.apply_(model)


def _fitting(weights: Mapping[str, Tensor] | None, model: nn.Module, transfer: Transfer) -> Mapping[str, Tensor]:
    """The weights. Raises: ValueError if there are none, or one does not fit the model."""
    if weights is None:
        raise ValueError(f"'{transfer.condition}' takes trained weights: give those of the search (find_signed_mask)")
    buffers = buffers_of(unwrap(model))
    for name, tensor in state_of(model).items():
        if name in buffers and name not in weights:  # a file written before it had buffers
            continue
        if name not in weights or weights[name].shape != tensor.shape:
            there = tuple(weights[name].shape) if name in weights else "missing"
            raise ValueError(f"trained weight '{name}' is {there}, the model has {tuple(tensor.shape)}")
    return weights


def _take_weights_(model: nn.Module, transfer: Transfer, weights: Mapping[str, Tensor]) -> None:
    """Take what the transfer takes of trained weights, which fit the model."""
    model = unwrap(model)
    psi, buffers = norm_parameters(model), buffers_of(model)
    if transfer.phi == "search":
        for name in buffers.keys() & weights.keys():
            buffers[name].copy_(weights[name])
    for name, parameter in parameters_of(model).items():
        if name not in psi:
            if transfer.phi == "search":
                parameter.copy_(weights[name])
        elif transfer.psi == "search":
            parameter.copy_(weights[name])
        elif transfer.psi == "shifted":
            parameter.copy_(weights[name].sign() * (SHIFTED_BIAS if name.endswith("bias") else 1.0))
        elif transfer.psi == "signs":
            parameter.copy_(parameter.abs() * weights[name].sign().to(parameter))
