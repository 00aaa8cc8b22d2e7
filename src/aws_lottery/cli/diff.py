"""Compare two masks of one network, layer by layer.

Each figure stands beside its value by chance. `overlap` is the share of weights that both keep among those that either
keeps, `same sign` the share of equal signs among those that both keep. By chance: masks as sparse as these in each
layer, at random places, with as many +.

Examples:
    aws-lottery diff runs/aws/round-09 runs/lrr/round-09
    aws-lottery diff org/resnet50-aws-0.14 runs/mine/round-09 --json
"""

import argparse
from collections.abc import Sequence

from ..mask import SignedMask
from ..mask_algebra import Likeness, likeness
from ..strict_json import to_json
from .parser import CommandParser
from .terminal import share, table

HEADER = ("layer", "remaining", "", "overlap", "chance", "same sign", "chance")


def parser(argv: Sequence[str] | None) -> CommandParser:
    parser = CommandParser(__doc__)
    parser.add_argument("first", help="folder, or id on the Hub")
    parser.add_argument("second", help="another")
    parser.add_argument("--revision", metavar="NAME", help="of the first, on the Hub")
    parser.add_argument("--second_revision", metavar="NAME", help="of the second")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def run(given: argparse.Namespace) -> None:
    first = SignedMask.from_pretrained(given.first, revision=given.revision)
    rows = likeness(first, SignedMask.from_pretrained(given.second, revision=given.second_revision))
    if given.json:
        print(to_json([vars(row) for row in rows], indent=2))
    else:
        print(table(HEADER, [_cells(row) for row in rows]))


def _cells(row: Likeness) -> tuple[str, ...]:
    figures = (row.overlap, row.overlap_by_chance, row.agreement, row.agreement_by_chance)
    return (row.name.removesuffix(".weight"), *map(share, row.remaining), *map(share, figures))
