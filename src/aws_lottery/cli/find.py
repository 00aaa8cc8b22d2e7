"""Search for a winning sign.

Runs Algorithm 1. For each round it writes a folder with the signed mask, its card and the surviving weights; beside
them, metrics.jsonl, and options.json with every option that was used. If it is killed, the same command continues it.

Examples:
    aws-lottery find --dataset uoft-cs/cifar100 --model resnet50
    aws-lottery find --dataset FOLDER --model resnet20 --target_remaining 0.1
    aws-lottery find --config runs/first/options.json --seed 1 --output_dir runs/second
    accelerate launch --multi_gpu -m aws_lottery find \\
        --recipe imagenet --dataset ILSVRC/imagenet-1k --mixed_precision bf16
"""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from torch import nn

from ..config import METHODS, PROTOCOLS, PRUNABLE_KINDS, SignedMaskConfig
from ..criteria import CRITERIA
from ..models import ARCHITECTURES, model_code, options_under
from ..paper import OF_METHOD, RECIPES, Settings
from ..runs.round_folder import round_folder
from ..runs.search import OF_FINAL_TRAINING, find_signed_mask
from ..summaries import share_text, size_text
from ..training import steps_an_epoch
from .options import (
    accelerator_for,
    adjusted,
    command_line,
    data_for,
    fresh_networks,
    options,
    recipe_option,
    settings_for,
    training_options,
    written_options,
)
from .parser import CommandParser, chosen, given_options
from .starting import start_of, starting_options

STAGES = ("rounds", "warmup_epochs", "epochs_per_round", "prune_rate")  # of Settings
SMOKE = {"warmup_epochs": 1, "epochs_per_round": 1, "rounds": 2}
SEARCH = tuple(field.name for field in fields(SignedMaskConfig) if field.name not in ("seed", "architecture"))


def parser(argv: Sequence[str] | None) -> CommandParser:
    parser = search_parser(__doc__, argv, None, RECIPES[chosen(argv, "recipe") or "small"])
    recipe_option(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    search(args, RECIPES[args.recipe])


def search_main(description: str | None, dataset: str, settings: Mapping[str, Settings]) -> None:
    """The command line of a search recipe: `aws-lottery find` for one data set, with these hyper-parameters."""
    search(search_parser(description, None, dataset, settings).parse_args(), settings)


def search_parser(
    description: str | None, argv: Sequence[str] | None, dataset: str | None, settings: Mapping[str, Settings]
) -> CommandParser:
    first = next(iter(settings))
    defaults = OF_METHOD.get(
        chosen(argv, "method") or "", settings.get(chosen(argv, "model") or first, settings[first])
    )
    networks = list(dict.fromkeys([*settings, *ARCHITECTURES]))
    parser = options(description, dataset, model=first, networks=networks)
    stages = {name: getattr(defaults, name) for name in STAGES}
    tables = {"method": METHODS, "protocol": PROTOCOLS, "prunable": PRUNABLE_KINDS, "criterion": CRITERIA}
    parser.add_parameters("search", SignedMaskConfig, SEARCH, shown=stages, choices=tables)
    training_options(parser, defaults.search, leave_out=OF_FINAL_TRAINING)
    starting_options(parser)
    parser.add_argument("--push_to_hub", metavar="REPO", help="publish the last mask there")
    return parser


def search_config(args: argparse.Namespace, name: str, paper: Settings) -> SignedMaskConfig:
    stages: dict[str, Any] = SMOKE if args.smoke else {stage: getattr(paper, stage) for stage in STAGES}
    if args.target_remaining is not None:
        stages = {stage: value for stage, value in stages.items() if stage != "rounds"}
    return SignedMaskConfig(**{**stages, **given_options(args, SEARCH)}, seed=args.seed, architecture=name)


def search(args: argparse.Namespace, settings: Mapping[str, Settings]) -> None:
    model_name = args.model or next(iter(settings))
    paper = OF_METHOD.get(args.method) or settings_for(model_name, settings)
    config, training = search_config(args, model_name, paper), adjusted(paper.search, args)
    if args.output_dir is None:
        data_name = Path(args.dataset or "made-up").name
        args.output_dir = f"runs/{data_name}-{model_name}-{config.method}-seed{args.seed}"
    folder = Path(args.output_dir)
    accelerator = accelerator_for(args, {"search": config.to_dict(), "training": asdict(training)})
    data = data_for(args, accelerator, config.protocol)
    network_options = options_under(model_name, config.protocol)
    model = fresh_networks(args, model_name, data, config.protocol)(args.seed)
    start = start_of(args, model)
    remaining = start["mask"].remaining if "mask" in start else 1.0
    config = config.starting_at(remaining)
    partial_batches = PROTOCOLS[config.protocol].partial_batches
    steps = steps_an_epoch(data.train, training, accelerator, partial_batches=partial_batches)
    accelerator.print(_cost(model, config, training.batch_size, steps, remaining))
    dataset = data.name if Path(args.dataset or "").exists() else args.dataset  # not a path of this machine
    with written_options(args, {"model": model_name, **asdict(training), **config.to_dict()}, accelerator):
        mask = find_signed_mask(
            model,
            data.train,
            config,
            training,
            output_dir=folder,
            accelerator=accelerator,
            test_data=data.test,
            seed=args.seed,
            about={
                "dataset": dataset,
                "task": "image-classification",
                "command": command_line(),
                "model_code": model_code(model_name, data.num_classes, data.image_size, **network_options),
            },
            solution_epochs=args.solution_epochs,
            **start,
        )
    accelerator.print(f"{mask!r}\nThe mask of every round is in {folder}. Next, for one of them:")
    on = ["--smoke"] if args.smoke else ["--dataset", args.dataset]
    command = ["aws-lottery", "train", str(round_folder(folder, config.rounds or 0)), *on]
    accelerator.print(f"  {shlex.join(command)}")
    if args.push_to_hub and accelerator.is_main_process:
        mask.push_to_hub(args.push_to_hub)
    accelerator.end_training()


def _cost(model: nn.Module, config: SignedMaskConfig, batch_size: int, steps: int, remaining: float) -> str:
    assert config.rounds is not None
    size = sum(p.numel() for p in model.parameters()) * (4 + 4 + 1)  # weights, one moment (Adam has two), masks
    remaining *= (1 - config.prune_rate) ** config.rounds
    rounds = "1 round" if config.rounds == 1 else f"{config.rounds} rounds"
    return (
        f"{config.method}, {rounds} to {share_text(remaining)} remaining: "
        f"{config.epochs} epochs, {config.epochs * steps:,} steps of {batch_size} images; "
        f"checkpoints of about {size_text(size)}. An estimate of the time follows after the first steps."
    )
