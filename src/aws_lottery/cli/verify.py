"""Is a mask a winning sign? A verdict on each claim of the paper.

From each of several initializations networks are trained: dense, with the signs (twice), with the mask alone, with
random signs, with a shuffled mask. Writes results.jsonl, verdict.json, verdict.md, plots, and the mask with a card that
states what was found. What is done is not done again; the same command started several times shares the work.
docs/verify.md says what the verdicts mean.

Examples:
    aws-lottery verify org/resnet50-aws-0.14 --dataset uoft-cs/cifar100 --seeds 5
    aws-lottery verify runs/aws/round-09 --dataset FOLDER --margin 0.5 --barrier_margin 1
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from ..experiments.panels import require_matplotlib
from ..experiments.verify import verify
from ..mask import SignedMask
from ..mask_file.hub import is_folder
from ..models import ARCHITECTURES, fresh_network, options_under
from ..paper import RECIPES
from .options import (
    accelerator_for,
    data_for,
    final_config,
    options,
    recipe_option,
    settings_for,
    training_options,
    write_options,
)
from .parser import CommandParser, chosen, said

OF_CLAIMS = ("margin", "barrier_margin", "level")
OF_MASK = ("revision", "weights")
OF_REPORT = ("plots", "benchmark")


def parser(argv: Sequence[str] | None) -> CommandParser:
    settings = RECIPES[chosen(argv, "recipe") or "small"]
    row = settings.get(chosen(argv, "model") or "", next(iter(settings.values())))
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
    recipe_option(parser)
    training_options(parser, row.final)
    return parser


def run(given: argparse.Namespace) -> None:
    if given.plots is not False:
        require_matplotlib()
    mask = SignedMask.from_pretrained(given.mask, revision=given.revision)
    name = given.model or (mask.config.architecture if mask.config else None)
    if name is None or name not in ARCHITECTURES:
        raise ValueError(f"--model is needed: the mask is for '{name}', not one of {', '.join(ARCHITECTURES)}")
    config = final_config(settings_for(name, RECIPES[given.recipe]), given)
    given.output_dir = given.output_dir or f"runs/verify-{name}"
    accelerator = accelerator_for(given, {"training": asdict(config)})
    data = data_for(given, accelerator)
    write_options(given, {"model": name, **asdict(config)}, accelerator)
    verdict = verify(
        given.mask if is_folder(given.mask) else mask,
        partial(
            fresh_network,
            name,
            data.num_classes,
            image_size=data.image_size,
            channels_last=given.channels_last,
            **options_under(name, mask.config.protocol if mask.config else "paper"),
        ),
        data,
        config,
        output_dir=given.output_dir,
        seeds=range(given.seed + 1, given.seed + given.seeds + 1),
        accelerator=accelerator,
        **said(given, (*OF_CLAIMS, *OF_REPORT, "weights")),
    )
    accelerator.print(verdict)
    accelerator.end_training()
