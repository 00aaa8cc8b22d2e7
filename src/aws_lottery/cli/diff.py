"""Compare two masks of one network, layer by layer.

`overlap` is the share of weights that both masks keep among those that either keeps. `same sign` is the share of equal
signs among the weights that both keep. `chance` is the expected value of each for masks that are as sparse in each
layer and have as many +, but at random places.

Examples:
    aws-lottery diff runs/aws/round-09 runs/lrr/round-09
    aws-lottery diff org/resnet50-aws-0.14 runs/mine/round-09 --json
"""

import argparse
from collections.abc import Sequence

from ..mask import SignedMask
from ..mask_algebra import Likeness, likeness
from ..strict_json import to_json
from ..summaries import share_text
from .parser import CommandParser
from .terminal import table

HEADER = ("layer", "remaining", "", "overlap", "chance", "same sign", "chance")


def parser(argv: Sequence[str] | None) -> CommandParser:
    parser = CommandParser(__doc__)
    parser.add_argument("first", help="folder, or id on the Hub")
    parser.add_argument("second", help="another mask: folder, or id on the Hub")
    parser.add_argument("--revision", metavar="NAME", help="of the first, on the Hub")
    parser.add_argument("--second_revision", metavar="NAME", help="of the second")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    return parser


def run(args: argparse.Namespace) -> None:
    first = SignedMask.from_pretrained(args.first, revision=args.revision)
    rows = likeness(first, SignedMask.from_pretrained(args.second, revision=args.second_revision))
    if args.json:
        print(to_json([vars(row) for row in rows], indent=2))
    else:
        print(table(HEADER, [_cells(row) for row in rows]))


def _cells(row: Likeness) -> tuple[str, ...]:
    figures = (row.overlap, row.overlap_by_chance, row.agreement, row.agreement_by_chance)
    return (row.name.removesuffix(".weight"), *map(share_text, row.remaining), *map(share_text, figures))
