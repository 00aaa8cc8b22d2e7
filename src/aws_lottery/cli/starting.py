"""The options of a search that does not start at a fresh dense network, and what is made of them."""

import argparse
from pathlib import Path
from typing import TypedDict

from torch import Tensor, nn

from ..mask import SignedMask
from ..mask_file.sparse_weights import load_state_file, solution_weights
from ..searched_model import detach
from ..transfers import TRANSFERS, transfer_

STARTS = ("signs", "mask", "solution")  # rows of TRANSFERS whose zeros are those of the mask


class Start(TypedDict, total=False):
    """Arguments of `find_signed_mask`; none for a search that starts dense."""

    mask: SignedMask
    psi_init: dict[str, Tensor]


def starting_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("start and end")
    group.add_argument(
        "--mask", help="start here instead of dense: a mask's folder or Hub id, or a file of sparse weights"
    )
    group.add_argument(
        "--start",
        choices=STARTS,
        default="signs",
        help="with --mask: fresh magnitudes with its signs, fresh weights under it, or what its search left",
    )
    group.add_argument(
        "--solution_epochs", type=int, default=0, help="train the sparse network so long after the last prune, too"
    )


def start_of(given: argparse.Namespace, model: nn.Module) -> Start:
    """Put the weights that --mask and --start name into the fresh model."""
    if given.mask is None:
        return {}
    psi_init = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    if Path(given.mask).is_file():
        model.load_state_dict(load_state_file(given.mask))
        mask = SignedMask.from_model(model)
        mask.source = given.mask
    else:
        mask = SignedMask.from_pretrained(given.mask)
        transfer = TRANSFERS[given.start]
        weights = solution_weights(given.mask, mask) if transfer.needs_weights else None
        transfer_(model, transfer, mask, weights=weights, seed=given.seed)
        detach(model)  # the search holds it
    return {"mask": mask, "psi_init": psi_init}
