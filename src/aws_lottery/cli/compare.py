"""Compare starts from searches: table, plots, cards.

Final trainings of rounds x transfers x seeds, from one search or more. Writes results.jsonl, table.md, plots, and the
masks with cards that state what was measured. Work that is done is not repeated, and several processes that run the
same command share the work. What starts from a search by `gm` is trained at the rate that its authors have for that,
unless --learning_rate is given.

Examples:
    aws-lottery compare runs/aws --dataset uoft-cs/cifar100 --rounds 9
    aws-lottery compare runs/aws runs/lrr --dataset FOLDER --rounds 7 9 11 \\
        --barrier_rounds 11 --transfers dense solution signs lrr:mask
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..experiments.comparison import Comparison
from ..experiments.jobs import SearchRound
from ..experiments.panels import require_matplotlib
from ..experiments.report import TABLE_FILE
from ..paper import RECIPES
from ..transfers import TRANSFERS
from .options import (
    accelerator_for,
    data_for,
    final_config,
    final_options,
    fresh_networks,
    network_name,
    options,
    own_training,
    settings_for,
    settings_in_common,
    written_options,
)
from .parser import CommandParser, given_options

OF_REPORT = ("plots",)


def parser(argv: Sequence[str] | None) -> CommandParser:
    return comparison_parser(__doc__, argv)


def compare_main(description: str | None) -> None:
    """The command line of the recipe: `aws-lottery compare` under its own description."""
    run(comparison_parser(description, None).parse_args())


def comparison_parser(description: str | None, argv: Sequence[str] | None) -> CommandParser:
    parser = options(description, None, model="that of the searches")
    parser.add_argument("searches", nargs="+", help="folders that searches wrote")
    group = parser.add_argument_group("what is compared")
    group.add_argument("--rounds", type=int, nargs="+", required=True, metavar="N", help="of each search")
    group.add_argument(
        "--transfers",
        nargs="+",
        default=["dense", "solution", "signs", "mask"],
        metavar="[METHOD:]NAME",
        help=f"of {', '.join(TRANSFERS)} (default: dense solution signs mask)",
    )
    group.add_argument(
        "--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="N", help="of the starts (default: 1 2 3)"
    )
    group.add_argument(
        "--barrier_rounds",
        type=int,
        nargs="*",
        default=[],
        metavar="N",
        help="of --rounds: barriers to the solution and against SGD noise; each start trains twice",
    )
    parser.add_parameters("what is written", Comparison, OF_REPORT)
    final_options(parser, argv)
    return parser


def run(args: argparse.Namespace) -> None:
    if args.plots is not False:
        require_matplotlib("--no-plots")
    args.output_dir = args.output_dir or f"{args.searches[0]}-compared"
    first = SearchRound(Path(args.searches[0]), args.rounds[0])
    name = network_name(args, first.architecture, args.searches[0])
    config = final_config(settings_for(name, RECIPES[args.recipe]), args)
    accelerator = accelerator_for(args)
    data = data_for(args, accelerator, first.protocol)
    comparison = Comparison(
        args.searches,
        fresh_networks(args, name, data, first.protocol),
        data,
        config,
        output_dir=args.output_dir,
        accelerator=accelerator,
        rounds=args.rounds,
        transfers=args.transfers,
        seeds=args.seeds,
        barrier_rounds=args.barrier_rounds,
        own_training=own_training(args),
        **given_options(args, OF_REPORT),
    )
    used = settings_in_common([config, *comparison.trainings.own_training.values()])
    with written_options(args, {"model": name, **used}, accelerator):
        comparison.run()
    accelerator.print((comparison.folder / TABLE_FILE).read_text())
    accelerator.end_training()
