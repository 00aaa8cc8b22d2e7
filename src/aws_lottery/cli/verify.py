"""Is a mask a winning sign? A verdict on each claim of the paper.

It trains networks from each of several initializations: dense, with the signs (twice), with the mask alone, with
random signs, and with a shuffled mask. It writes results.jsonl, verdict.json, verdict.md, plots, and the mask with a
card that states the verdicts. Work that is done is not repeated; several processes that run the same command share it.
What starts from a mask that `gm` found is trained at the rate that its authors have for that, unless --learning_rate is
given. docs/verify.md says what the verdicts mean.

Examples:
    aws-lottery verify org/resnet50-aws-0.14 --dataset uoft-cs/cifar100 --seeds 5
    aws-lottery verify runs/aws/round-09 --dataset FOLDER --margin 0.5 --barrier_margin 1
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from ..experiments.panels import require_matplotlib
from ..experiments.verify import verify
from ..mask import SignedMask
from ..mask_file.hub import is_folder
from ..paper import RECIPES
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

OF_CLAIMS = ("margin", "barrier_margin", "level")
OF_MASK = ("revision", "weights")
OF_REPORT = ("plots", "benchmark")


def parser(argv: Sequence[str] | None) -> CommandParser:
    parser = options(__doc__, None, model="the mask's")
    parser.add_argument("mask", help="folder, or id on the Hub")
    parser.add_argument(
        "--seeds",
        type=int,
        default=5,
        metavar="N",
        help="number of initializations: those of --seed + 1 to --seed + N (default: 5)",
    )
    parser.add_parameters("what counts", verify, OF_CLAIMS)
    parser.add_parameters("of the mask", verify, OF_MASK)
    parser.add_parameters("what is written", verify, OF_REPORT)
    final_options(parser, argv)
    return parser


def run(args: argparse.Namespace) -> None:
    if args.plots is not False:
        require_matplotlib("--no-plots")
    mask = SignedMask.from_pretrained(args.mask, revision=args.revision)
    name = network_name(args, mask.config.architecture if mask.config else None, args.mask)
    config = final_config(settings_for(name, RECIPES[args.recipe]), args)
    args.output_dir = args.output_dir or f"runs/verify-{name}"
    accelerator = accelerator_for(args, {"training": asdict(config)})
    protocol = mask.config.protocol if mask.config else "paper"
    data = data_for(args, accelerator, protocol)
    own = own_training(args)
    used = settings_in_common([config, own.get(mask.config.method, config) if mask.config else config])
    with written_options(args, {"model": name, **used}, accelerator):
        verdict = verify(
            args.mask if is_folder(args.mask) else mask,
            fresh_networks(args, name, data, protocol),
            data,
            config,
            output_dir=args.output_dir,
            seeds=range(args.seed + 1, args.seed + args.seeds + 1),
            accelerator=accelerator,
            own_training=own,
            **given_options(args, (*OF_CLAIMS, *OF_REPORT, "weights")),
        )
    accelerator.print(verdict)
    accelerator.end_training()
