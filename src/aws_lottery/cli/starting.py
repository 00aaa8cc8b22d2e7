"""The options of a search that starts from a mask or ends with the solution, and the arguments made from them."""

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
    """Arguments of `find_signed_mask`; empty for a search that starts dense."""

    mask: SignedMask
    psi_init: dict[str, Tensor]


def starting_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("start and end")
    group.add_argument(
        "--mask",
        help="mask to start from: its folder, its id on the Hub, or a file of sparse weights (default: start dense)",
    )
    group.add_argument(
        "--start",
        choices=STARTS,
        default="signs",
        help="weights at the start, with --mask: signs (fresh magnitudes with its signs), mask (fresh weights under it)"
        ", or solution (the weights that its search left) (default: signs)",
    )
    group.add_argument(
        "--solution_epochs",
        type=int,
        default=0,
        metavar="N",
        help="train the sparse network for N more epochs after the last prune (default: 0)",
    )


def start_of(args: argparse.Namespace, model: nn.Module) -> Start:
    """Load the weights that --mask and --start ask for into the fresh `model`."""
    if args.mask is None:
        return {}
    psi_init = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    if Path(args.mask).is_file():
        model.load_state_dict(load_state_file(args.mask))
        mask = SignedMask.from_model(model)
        mask.source = args.mask
    else:
        mask = SignedMask.from_pretrained(args.mask)
        transfer = TRANSFERS[args.start]
        weights = solution_weights(args.mask, mask) if transfer.needs_weights else None
        transfer_(model, transfer, mask, weights=weights, seed=args.seed)
        detach(model)  # the search takes its own hold
    return {"mask": mask, "psi_init": psi_init}
