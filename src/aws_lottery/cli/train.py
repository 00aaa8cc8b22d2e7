"""Train a fresh initialization from a signed mask.

Trains |theta_init| s, or a control on the same initialization (--transfer). Writes result.json with the accuracy
before and after training, model.safetensors, and options.json with all that was used. The same options in the same
folder go on where they were; what is done is not done again.

Examples:
    aws-lottery train runs/aws/round-09 --dataset uoft-cs/cifar100 --seed 1
    aws-lottery train org/resnet50-aws-0.14 --transfer random-signs --dataset FOLDER
    accelerate launch --multi_gpu -m aws_lottery train org/resnet50-aws-0.14 \\
        --recipe imagenet --dataset ILSVRC/imagenet-1k --mixed_precision bf16
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from ..config import PROTOCOLS
from ..mask import SignedMask
from ..mask_file.sparse_weights import solution_weights
from ..models import ARCHITECTURES, fresh_network, options_under
from ..paper import OF_METHOD, RECIPES
from ..runs.final_training import final_training
from ..training_config import TrainingConfig
from ..transfers import TRANSFERS, transfer_
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
from .parser import CommandParser, choice, chosen


def parser(argv: Sequence[str] | None) -> CommandParser:
    return final_parser(__doc__, argv)


def final_main(description: str | None) -> None:
    """The command line of the recipe: `aws-lottery train` under its own description."""
    run(final_parser(description, None).parse_args())


def final_parser(description: str | None, argv: Sequence[str] | None) -> CommandParser:
    settings = RECIPES[chosen(argv, "recipe") or "small"]
    row = settings.get(chosen(argv, "model") or "", next(iter(settings.values())))
    parser = options(description, None, model="the mask's")
    parser.add_argument("mask", help="folder, or id on the Hub")
    parser.add_argument("--revision", default=None, metavar="NAME", help="of the mask on the Hub")
    parser.add_argument("--transfer", default="signs", **choice(TRANSFERS, "what is taken over", "signs"))
    recipe_option(parser)
    parser.add_argument(
        "--data_seed", type=int, default=None, metavar="N", help="u, the SGD noise (default: as --seed)"
    )
    training_options(parser, row.final)
    return parser


def run(given: argparse.Namespace) -> None:
    mask = SignedMask.from_pretrained(given.mask, revision=given.revision)
    name = given.model or (mask.config.architecture if mask.config else None)
    if name is None or name not in ARCHITECTURES:
        raise ValueError(f"--model is needed: the mask is for '{name}', not one of {', '.join(ARCHITECTURES)}")
    method = mask.config.method if mask.config else ""
    config = final_config(OF_METHOD.get(method) or settings_for(name, RECIPES[given.recipe]), given)
    given.output_dir = given.output_dir or f"runs/final-{name}-{given.transfer}-seed{given.seed}"
    given.data_seed = given.seed if given.data_seed is None else given.data_seed
    _train_from(mask, name, config, given)


def _train_from(mask: SignedMask, name: str, config: TrainingConfig, given: argparse.Namespace) -> None:
    accelerator = accelerator_for(given, {"training": asdict(config)})
    data = data_for(given, accelerator)
    write_options(given, {"model": name, **asdict(config)}, accelerator)
    protocol = mask.config.protocol if mask.config else "paper"
    model = fresh_network(
        name,
        data.num_classes,
        given.seed,
        image_size=data.image_size,
        channels_last=given.channels_last,
        **options_under(name, protocol),
    )
    transfer = TRANSFERS[given.transfer]
    weights = solution_weights(given.mask, mask) if transfer.needs_weights else None
    transfer_(model, transfer, mask, weights=weights, seed=given.seed)
    identity = {key: getattr(given, key) for key in ("mask", "revision", "transfer", "seed")}
    identity |= {"model": name, "remaining": mask.remaining, "remaining_total": mask.remaining_total}
    result = final_training(
        model,
        data,
        config,
        output_dir=given.output_dir,
        accelerator=accelerator,
        identity=identity,
        seed=given.data_seed,
        protocol=PROTOCOLS[protocol],
    )
    accelerator.print(f"{given.output_dir}: {json.dumps(result, indent=2)}")
    accelerator.end_training()
