"""What the recipes have in common: their options, the search they run, and the final training from a mask."""

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from .compare import TABLE_FILE, Comparison
from .config import METHODS, PROTOCOLS, SignedMaskConfig
from .data import ImageData, load_data
from .data.made_up import made_up_images
from .final import final_training
from .jobs import Found
from .mask import SignedMask
from .models import create_model
from .search import find_signed_mask, round_folder
from .settings import RECIPES, Settings
from .training import OPTIMIZERS, TrainingConfig, steps_an_epoch
from .transfers import TRANSFERS, transfer_
from .weights import load_weights

SMOKE = {"warmup_epochs": 1, "epochs_per_round": 1, "rounds": 2}  # and a final training of one epoch


def machine_options(description: str | None) -> argparse.ArgumentParser:
    """The options that every recipe has: where it runs and writes, not what."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default=None)
    parser.add_argument("--mixed_precision", choices=("no", "bf16", "fp16"), default=None)
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="torch.compile the network")
    parser.add_argument("--channels_last", action="store_true")
    parser.add_argument("--workers", type=int, default=None, help="processes that decode; one a core, 8 at most")
    parser.add_argument("--threads", type=int, default=None, help="of each process on a CPU; default: torch's")
    parser.add_argument(
        "--report_to", choices=("none", "tensorboard", "wandb", "trackio"), default="none", help="pip install it"
    )
    parser.add_argument("--smoke", action="store_true", help="seconds, on made-up images; shows that it runs, no more")
    return parser


def options(description: str | None, dataset: str | None, settings: Mapping[str, Settings]) -> argparse.ArgumentParser:
    """Those of recipes with the paper's hyper-parameters; the first network in `settings` is the default."""
    parser = machine_options(description)
    parser.add_argument("--dataset", default=dataset, help="id on the Hub, or a folder of images or parquet files")
    parser.add_argument("--model", choices=list(settings), default=None, help="a network of aws_lottery.create_model")
    parser.add_argument("--seed", type=int, default=0, help="of the initialization and of the data order")
    parser.add_argument("--batch_size", type=int, default=None, help="over all processes; default: the paper's")
    parser.add_argument("--learning_rate", type=float, default=None, help="default: the paper's")
    parser.add_argument("--weight_decay", type=float, default=None, help="default: the paper's")
    parser.add_argument("--optimizer", choices=list(OPTIMIZERS), default=None, help="default: the paper's")
    parser.add_argument("--ema_decay", type=float, default=None, help="train to an average of the weights")
    parser.add_argument("--max_train_samples", type=int, default=None, help="train on so many images, always the same")
    return parser


def search_main(description: str | None, dataset: str, settings: Mapping[str, Settings]) -> None:
    """The command line of a search recipe."""
    parser = options(description, dataset, settings)
    parser.add_argument("--method", choices=list(METHODS), default="aws")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), default="paper")
    parser.add_argument(
        "--rounds", type=int, default=None, help="prunes of 20 %% of the survivors; default: the paper's"
    )
    parser.add_argument("--warmup_epochs", type=int, default=None, help="default: the paper's")
    parser.add_argument("--epochs_per_round", type=int, default=None, help="default: the paper's")
    parser.add_argument("--push_to_hub", metavar="REPO", help="publish the last mask there")
    given = parser.parse_args()
    model_name = given.model or next(iter(settings))
    paper = settings[model_name]
    search: dict[str, Any] = {name: getattr(paper, name) for name in SMOKE} | (SMOKE if given.smoke else {})
    search |= {name: value for name in SMOKE if (value := getattr(given, name)) is not None}
    config = SignedMaskConfig(
        method=given.method, protocol=given.protocol, seed=given.seed, architecture=model_name, **search
    )
    training = _adjusted(paper.search, given)
    if given.output_dir is None:
        given.output_dir = f"runs/{given.dataset.split('/')[-1]}-{model_name}-{given.method}-seed{given.seed}"
    folder = Path(given.output_dir)
    accelerator = accelerator_for(given, {"search": config.to_dict(), "training": asdict(training)})
    data = _data(given, accelerator)
    model = fresh_network(model_name, data, given.seed, channels_last=given.channels_last)
    accelerator.print(_cost(model, config, training.batch_size, steps_an_epoch(data.train, training, accelerator)))
    mask = find_signed_mask(
        model,
        data.train,
        config,
        training,
        output_dir=folder,
        accelerator=accelerator,
        test_data=data.test,
        seed=given.seed,
        told={
            "dataset": given.dataset,
            "task": "image-classification",
            "command": shlex.join(sys.argv),
            "model_code": model_code(model_name, data.num_classes, data.image_size),
        },
    )
    accelerator.print(f"{mask!r}\nThe mask of every round is in {folder}. Next, for one of them:")
    accelerator.print(
        f"  python recipes/train_from_mask.py {round_folder(folder, config.rounds or 0)} --dataset {given.dataset}"
    )
    if given.push_to_hub and accelerator.is_main_process:
        mask.push_to_hub(given.push_to_hub)
    accelerator.end_training()


def final_main(description: str | None) -> None:
    """The command line of the final training from a mask: A(|theta_init| s), or one of its controls."""
    networks = {name: row for rows in RECIPES.values() for name, row in rows.items()}
    parser = options(description, None, networks)
    parser.add_argument("mask", help="folder, or id on the Hub")
    parser.add_argument("--revision", default=None, help="of the mask on the Hub")
    parser.add_argument("--transfer", choices=list(TRANSFERS), default="signs")
    parser.add_argument("--recipe", choices=list(RECIPES), default="small", help="whose hyper-parameters")
    parser.add_argument("--epochs", type=int, default=None, help="default: the paper's")
    parser.add_argument("--data_seed", type=int, default=None, help="u, the SGD noise; default: as --seed")
    given = parser.parse_args()
    mask = SignedMask.from_pretrained(given.mask, revision=given.revision)
    name = given.model or (mask.config.architecture if mask.config else None)
    if name is None or name not in RECIPES[given.recipe]:
        parser.error(f"--model is needed: the mask is for '{name}', not one of {', '.join(RECIPES[given.recipe])}")
    config = _final(RECIPES[given.recipe][name], given)
    given.output_dir = given.output_dir or f"runs/final-{name}-{given.transfer}-seed{given.seed}"
    given.data_seed = given.seed if given.data_seed is None else given.data_seed
    _train_from(mask, name, config, given)


def _train_from(mask: SignedMask, name: str, config: TrainingConfig, given: argparse.Namespace) -> None:
    accelerator = accelerator_for(given, {"training": asdict(config)})
    data = _data(given, accelerator)
    model = fresh_network(name, data, given.seed, channels_last=given.channels_last)
    transfer = TRANSFERS[given.transfer]
    weights = load_weights(given.mask, mask) if transfer.needs_weights else None
    transfer_(model, transfer, mask, weights=weights, seed=given.seed)
    facts = {key: getattr(given, key) for key in ("mask", "revision", "transfer", "seed")}
    facts |= {"model": name, "remaining": mask.remaining, "remaining_total": mask.remaining_total}
    result = final_training(
        model,
        data,
        config,
        output_dir=given.output_dir,
        accelerator=accelerator,
        facts=facts,
        seed=given.data_seed,
        recalibrated=mask.config is None or PROTOCOLS[mask.config.protocol].recalibrate,
    )
    accelerator.print(f"{given.output_dir}: {json.dumps(result, indent=2)}")
    accelerator.end_training()


def compare_main(description: str | None) -> None:
    """The command line of a comparison: final trainings from the masks of one or more searches."""
    networks = {name: row for rows in RECIPES.values() for name, row in rows.items()}
    parser = options(description, None, networks)
    parser.add_argument("searches", nargs="+", help="folders that search recipes wrote")
    parser.add_argument("--rounds", type=int, nargs="+", required=True)
    parser.add_argument(
        "--transfers", nargs="+", default=["dense", "solution", "signs", "mask"], metavar="[METHOD:]NAME"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--barrier_rounds", type=int, nargs="*", default=[], help="of --rounds; each start trains twice"
    )
    parser.add_argument("--recipe", choices=list(RECIPES), default="small", help="whose hyper-parameters")
    parser.add_argument("--epochs", type=int, default=None, help="default: the paper's")
    given = parser.parse_args()
    given.output_dir = given.output_dir or f"{given.searches[0]}-compared"
    name = given.model or Found(round_folder(given.searches[0], given.rounds[0]), given.rounds[0]).architecture
    if name is None or name not in RECIPES[given.recipe]:
        parser.error(f"--model is needed: the search is of '{name}', not one of {', '.join(RECIPES[given.recipe])}")
    accelerator = accelerator_for(given)
    data = _data(given, accelerator)
    comparison = Comparison(
        given.searches,
        partial(fresh_network, name, data, channels_last=given.channels_last),
        data,
        _final(RECIPES[given.recipe][name], given),
        output_dir=given.output_dir,
        accelerator=accelerator,
        rounds=given.rounds,
        transfers=given.transfers,
        seeds=given.seeds,
        barrier_rounds=given.barrier_rounds,
    )
    comparison.run()
    accelerator.print((comparison.folder / TABLE_FILE).read_text())
    accelerator.end_training()


def _final(settings: Settings, given: argparse.Namespace) -> TrainingConfig:
    epochs = given.epochs or (1 if given.smoke else settings.final.epochs)
    return _adjusted(replace(settings.final, epochs=epochs), given)


def _adjusted(config: TrainingConfig, given: argparse.Namespace) -> TrainingConfig:
    """With what the command line says otherwise than the paper."""
    names = ("batch_size", "learning_rate", "weight_decay", "optimizer", "ema_decay")
    said = {name: value for name in names if (value := getattr(given, name)) is not None}
    return replace(config, **({"batch_size": 8} if given.smoke else {}) | said)


def accelerator_for(given: argparse.Namespace, settings: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The accelerator that the options ask for; its tracker, if any, is told the options and `settings`.

    Raises: SystemExit if the tracker is not installed.
    """
    from accelerate import Accelerator, DataLoaderConfiguration
    from accelerate.tracking import get_available_trackers

    if given.report_to not in ("none", *map(str, get_available_trackers())):
        raise SystemExit(f"--report_to {given.report_to} needs a package of that name: pip install {given.report_to}")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("aws_lottery").setLevel(logging.INFO)
    if given.threads:
        torch.set_num_threads(given.threads)
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else processes on CPUs that torchrun starts stay strangers
        mixed_precision=given.mixed_precision,
        dynamo_backend="inductor" if given.compile else None,
        gradient_accumulation_steps=given.gradient_accumulation_steps,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        log_with=None if given.report_to == "none" else given.report_to,
        project_dir=given.output_dir,
    )
    if given.report_to != "none":
        accelerator.init_trackers("aws_lottery", config=dict(_flat({**vars(given), **settings})))
    return accelerator


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, bool | float | str]]:
    """Names and values as every tracker takes them."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, bool | int | float | str) else str(value)


def _data(given: argparse.Namespace, accelerator: Any) -> ImageData:
    source = made_up_images(32) if given.smoke else given.dataset
    if source is None:
        raise SystemExit("--dataset is needed: an id on the Hub, or a folder of images or parquet files")
    data = load_data(source, workers=given.workers, max_train_samples=given.max_train_samples)
    return data.to(accelerator.device)


def fresh_network(name: str, data: ImageData, seed: int, *, channels_last: bool = False) -> nn.Module:
    """Seeded apart from all else: the same seed is the same initialization in every recipe."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = create_model(name, data.num_classes, image_size=data.image_size)
    if channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  torch's overloads lack it
    return model


def model_code(name: str, num_classes: int, image_size: int) -> str:
    """Python that makes a fresh network, for a mask's card."""
    call = f'create_model("{name}", {num_classes}, image_size={image_size})'
    return f"from aws_lottery import create_model\n\nmodel = {call}"


def _cost(model: nn.Module, config: SignedMaskConfig, batch_size: int, steps: int) -> str:
    assert config.rounds is not None
    size = sum(p.numel() for p in model.parameters()) * (4 + 4 + 1) / 1e9  # weights, a moment (Adam has two), masks
    return (
        f"{config.method}, {config.rounds} rounds to {(1 - config.prune_rate) ** config.rounds:.3f} remaining: "
        f"{config.epochs} epochs, {config.epochs * steps:,} steps of {batch_size} images; "
        f"about {size:.2f} GB of checkpoint. An estimate of the hours follows after the first steps."
    )
