"""What the command lines have in common: options, and what is made of them."""

import argparse
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch

from ..data import ImageData, load_data
from ..data.made_up import made_up_images
from ..models import ARCHITECTURES
from ..paper import Settings
from ..processes import warn_if_alone
from ..training_config import OPTIMIZERS, TrainingConfig

logger = logging.getLogger(__name__)


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
    networks = list(dict.fromkeys([*settings, *ARCHITECTURES]))
    parser.add_argument("--model", choices=networks, default=None, help="a network of aws_lottery.create_model")
    parser.add_argument("--seed", type=int, default=0, help="of the initialization and of the data order")
    parser.add_argument("--batch_size", type=int, default=None, help="over all processes; default: the paper's")
    parser.add_argument("--learning_rate", type=float, default=None, help="default: the paper's")
    parser.add_argument("--weight_decay", type=float, default=None, help="default: the paper's")
    parser.add_argument("--optimizer", choices=list(OPTIMIZERS), default=None, help="default: the paper's")
    parser.add_argument("--ema_decay", type=float, default=None, help="train to an average of the weights")
    parser.add_argument("--max_train_samples", type=int, default=None, help="train on so many images, always the same")
    return parser


def settings_for(name: str, settings: Mapping[str, Settings]) -> Settings:
    """The paper's hyper-parameters for a network; those of the first one in `settings` if the paper has none for it."""
    first = next(iter(settings))
    if name not in settings:
        logger.warning("the paper has no hyper-parameters for %s: those of %s are taken", name, first)
    return settings.get(name, settings[first])


def final_config(settings: Settings, given: argparse.Namespace) -> TrainingConfig:
    epochs = given.epochs or (1 if given.smoke else settings.final.epochs)
    return adjusted(replace(settings.final, epochs=epochs), given)


def adjusted(config: TrainingConfig, given: argparse.Namespace) -> TrainingConfig:
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
    warn_if_alone(accelerator)
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


def data_for(given: argparse.Namespace, accelerator: Any) -> ImageData:
    source = made_up_images(32) if given.smoke else given.dataset
    if source is None:
        raise SystemExit("--dataset is needed: an id on the Hub, or a folder of images or parquet files")
    data = load_data(source, workers=given.workers, max_train_samples=given.max_train_samples)
    return data.to(accelerator.device)
