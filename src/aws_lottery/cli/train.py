"""Train a fresh initialization from a signed mask.

Trains from |theta_init| * s, or from a control on the same initialization (--transfer). Writes result.json with the
accuracy before and after training, model.safetensors, and options.json with every option that was used. If it is
killed, the same command continues it; a training that is done is not repeated.

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
from ..paper import OF_METHOD, RECIPES
from ..runs.final_training import final_training
from ..training_config import TrainingConfig
from ..transfers import TRANSFERS, transfer_
from .options import (
    accelerator_for,
    data_for,
    final_config,
    final_options,
    fresh_networks,
    network_name,
    options,
    settings_for,
    written_options,
)
from .parser import CommandParser, choice


def parser(argv: Sequence[str] | None) -> CommandParser:
    return final_parser(__doc__, argv)


def final_main(description: str | None) -> None:
    """The command line of the recipe: `aws-lottery train` under its own description."""
    run(final_parser(description, None).parse_args())


def final_parser(description: str | None, argv: Sequence[str] | None) -> CommandParser:
    parser = options(description, None, model="the mask's")
    parser.add_argument("mask", help="folder, or id on the Hub")
    parser.add_argument("--revision", default=None, metavar="NAME", help="of the mask on the Hub")
    parser.add_argument("--transfer", default="signs", **choice(TRANSFERS, "what is taken from the mask", "signs"))
    parser.add_argument(
        "--data_seed",
        type=int,
        default=None,
        metavar="N",
        help="of the data order, the SGD noise u (default: --seed)",
    )
    final_options(parser, argv)
    return parser


def run(args: argparse.Namespace) -> None:
    mask = SignedMask.from_pretrained(args.mask, revision=args.revision)
    name = network_name(args, mask.config.architecture if mask.config else None, args.mask)
    method = mask.config.method if mask.config and args.transfer != "dense" else ""
    config = final_config(OF_METHOD.get(method) or settings_for(name, RECIPES[args.recipe]), args)
    args.output_dir = args.output_dir or f"runs/final-{name}-{args.transfer}-seed{args.seed}"
    args.data_seed = args.seed if args.data_seed is None else args.data_seed
    _train_from(mask, name, config, args)


def _train_from(mask: SignedMask, name: str, config: TrainingConfig, args: argparse.Namespace) -> None:
    accelerator = accelerator_for(args, {"training": asdict(config)})
    protocol = mask.config.protocol if mask.config else "paper"
    data = data_for(args, accelerator, protocol)
    model = fresh_networks(args, name, data, protocol)(args.seed)
    transfer = TRANSFERS[args.transfer]
    weights = solution_weights(args.mask, mask) if transfer.needs_weights else None
    transfer_(model, transfer, mask, weights=weights, seed=args.seed)
    identity = {key: getattr(args, key) for key in ("mask", "revision", "transfer", "seed")}
    identity |= {"model": name, "remaining": mask.remaining, "remaining_total": mask.remaining_total}
    with written_options(args, {"model": name, **asdict(config)}, accelerator):
        result = final_training(
            model,
            data,
            config,
            output_dir=args.output_dir,
            accelerator=accelerator,
            identity=identity,
            seed=args.data_seed,
            protocol=PROTOCOLS[protocol],
        )
    accelerator.print(f"{args.output_dir}: {json.dumps(result, indent=2)}")
    accelerator.end_training()
    if "failed" in result:  # it is kept, as a comparison counts it; for whoever waits for a network it is an error
        raise FloatingPointError(result["failed"])
