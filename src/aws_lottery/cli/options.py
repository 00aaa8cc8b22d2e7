"""The options that command lines share, and the objects that are made from them."""

import argparse
import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from ..atomic import make_folder, replace_file
from ..data import ImageData, load_data
from ..data.made_up import made_up_images
from ..models import ARCHITECTURES, fresh_network, options_under
from ..paper import OF_METHOD, RECIPES, Settings
from ..processes import any_process, together, warn_if_alone
from ..runs.checkpoint import SETTINGS_FILE
from ..training_config import OPTIMIZERS, SCHEDULES, TrainingConfig
from .logs import start_logging
from .parser import OPTIONS_FILE, CommandParser, choice, chosen, given_options, options_text

logger = logging.getLogger(__name__)

TRAINING = tuple(field.name for field in fields(TrainingConfig))
OF_COLUMNS = ("image", "label", "train_split", "test_split", "test_share")
TABLES = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}


def machine_options(description: str | None) -> CommandParser:
    """A parser with the options that every recipe has: where it runs and where it writes."""
    parser = CommandParser(description, config=True)
    group = parser.add_argument_group("where it runs and writes")
    group.add_argument("--output_dir", default=None, metavar="FOLDER")
    group.add_argument("--mixed_precision", choices=("no", "bf16", "fp16"), default=None)
    group.add_argument("--gradient_accumulation_steps", type=int, default=1, metavar="N")
    group.add_argument("--compile", action="store_true", help="torch.compile the network")
    group.add_argument("--channels_last", action="store_true", help="memory format of images and convolutions")
    group.add_argument(
        "--workers", type=int, default=None, metavar="N", help="processes that decode (default: one a core, 8 at most)"
    )
    group.add_argument(
        "--threads", type=int, default=None, metavar="N", help="of each process on a CPU (default: torch's)"
    )
    group.add_argument(
        "--report_to",
        nargs="+",
        default=["none"],
        metavar="TRACKER",
        help="none, all, or several trackers of accelerate, as tensorboard, wandb, trackio (install them with pip)",
    )
    group.add_argument("--smoke", action="store_true", help="train briefly on a few made-up images, as a test")
    return parser


def options(
    description: str | None, dataset: str | None, *, model: str, networks: Sequence[str] = tuple(ARCHITECTURES)
) -> CommandParser:
    """A parser with the options of commands that train a network on a data set; `model` says the network's default."""
    parser = machine_options(description)
    group = parser.add_argument_group("network and data")
    group.add_argument("--model", **choice(networks, "a network of create_model", model))
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the initialization and of the data order")
    group.add_argument(
        "--dataset", default=dataset, metavar="ID", help="on the Hub, or a folder of images or parquet files"
    )
    parser.add_parameters("of the data set", load_data, ("max_train_samples", *OF_COLUMNS))
    return parser


def recipe_option(parser: CommandParser) -> None:
    parser.add_argument("--recipe", default="small", **choice(RECIPES, "whose hyper-parameters", "small"))


def training_options(parser: CommandParser, settings: TrainingConfig, leave_out: Sequence[str] = ()) -> None:
    """The hyper-parameters of A(theta, u); `settings` are the defaults that the help shows."""
    names = [name for name in TRAINING if name not in leave_out]
    parser.add_parameters("training", TrainingConfig, names, shown=vars(settings), choices=TABLES)


def final_options(parser: CommandParser, argv: Sequence[str] | None) -> None:
    """--recipe, and the hyper-parameters of a final training, whose defaults are those of that recipe and network."""
    settings = RECIPES[chosen(argv, "recipe") or "small"]
    recipe_option(parser)
    training_options(parser, settings.get(chosen(argv, "model") or "", next(iter(settings.values()))).final)


def settings_for(name: str, settings: Mapping[str, Settings]) -> Settings:
    """The paper's hyper-parameters for a network. If it has none, those of the first network in `settings`."""
    first = next(iter(settings))
    if name not in settings:
        logger.warning("the paper has no hyper-parameters for %s: those of %s are taken", name, first)
    return settings.get(name, settings[first])


def network_name(args: argparse.Namespace, recorded: str | None, source: str) -> str:
    """The network of --model or, without one, the network that the search or the mask `source` records.

    Raises: ValueError if it is not in ARCHITECTURES.
    """
    name = args.model or recorded
    if name not in ARCHITECTURES:
        found = f"is for '{name}'" if name else "does not name its network"
        raise ValueError(f"--model is needed: '{source}' {found}; give one of {', '.join(ARCHITECTURES)}")
    return name


def final_config(settings: Settings, args: argparse.Namespace) -> TrainingConfig:
    """How a final training of one of these networks is done, with the changes that the command line asks for."""
    epochs = args.epochs or (1 if args.smoke else settings.final.epochs)
    return adjusted(replace(settings.final, epochs=epochs), args)


def own_training(args: argparse.Namespace) -> dict[str, TrainingConfig]:
    """Method -> final training from its masks, where that is not the network's; with the command line's changes."""
    return {method: final_config(settings, args) for method, settings in OF_METHOD.items()}


def settings_in_common(configs: Sequence[TrainingConfig]) -> dict[str, Any]:
    """The hyper-parameters that all of them have, so that a file of these, given back with --config, sets no other."""
    items = [asdict(config).items() for config in configs]
    return {name: value for name, value in items[0] if all((name, value) in others for others in items)}


def adjusted(config: TrainingConfig, args: argparse.Namespace) -> TrainingConfig:
    """The paper's configuration with the changes that the command line asks for."""
    smoke = {"batch_size": 8} if args.smoke else {}
    return replace(config, **{**smoke, **given_options(args, TRAINING)})


def accelerator_for(args: argparse.Namespace, settings: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The accelerator that the options ask for. Its trackers, if any, record the options and `settings`.

    Raises: SystemExit if a tracker is not installed.
    """
    from accelerate import Accelerator, DataLoaderConfiguration

    trackers = _trackers(args.report_to)
    if args.threads:
        torch.set_num_threads(args.threads)
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else CPU processes of torchrun form no group
        mixed_precision=args.mixed_precision,
        dynamo_backend="inductor" if args.compile else None,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        log_with=trackers or None,
        project_dir=args.output_dir,
    )
    with together(accelerator):
        if accelerator.is_local_main_process:
            start_logging(args.output_dir if accelerator.is_main_process else None)
    warn_if_alone(accelerator)
    if trackers:
        accelerator.init_trackers("aws_lottery", config=dict(_flat({**vars(args), **settings})))
    return accelerator


def _trackers(names: Sequence[str]) -> list[Any]:
    """The trackers of --report_to, which means what it does in transformers. Raises: SystemExit if one is missing."""
    from accelerate.tracking import get_available_trackers

    installed = [str(name) for name in get_available_trackers()]
    wanted = [] if "none" in names else installed if "all" in names else list(dict.fromkeys(names))
    if missing := [name for name in wanted if name not in installed]:
        raise SystemExit(f"--report_to {missing[0]} needs a package of that name: pip install {missing[0]}")
    return wanted


@contextmanager
def written_options(args: argparse.Namespace, used: Mapping[str, Any], accelerator: Any) -> Iterator[None]:
    """Write OPTIONS_FILE to the output folder of the run in this block; `used` has the values of options not given.

    In the folder of an earlier run, whose options it has, it is written at the end of the block alone: this run may be
    refused, or go on for more rounds. In a new one it is written then, too, as another run may have come at once.
    """
    folder = Path(args.output_dir)
    if not any_process((folder / SETTINGS_FILE).exists(), accelerator):
        _write_options(folder, args, used, accelerator)
    yield
    _write_options(folder, args, used, accelerator)


def _write_options(folder: Path, args: argparse.Namespace, used: Mapping[str, Any], accelerator: Any) -> None:
    with together(accelerator):
        if accelerator.is_main_process:
            make_folder(folder)
            replace_file(folder / OPTIONS_FILE, options_text(args, used).encode())


def command_line() -> str:
    """The command line of this process, without the folder of the program, so that it works on another machine."""
    program = Path(sys.argv[0])
    return shlex.join(["aws-lottery" if program.name == "__main__.py" else program.name, *sys.argv[1:]])


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, bool | float | str]]:
    """Nested settings as pairs of a dotted name and a value of a type that every tracker accepts."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, bool | int | float | str) else str(value)


def data_for(args: argparse.Namespace, accelerator: Any, protocol: str) -> ImageData:
    """The data set of --dataset as the protocol normalizes it, or made-up images for --smoke.

    Raises: SystemExit if there is neither.
    """
    source = made_up_images(32) if args.smoke else args.dataset
    if source is None:
        raise SystemExit("--dataset is needed: an id on the Hub, or a folder of images or parquet files")
    columns = {} if args.smoke else given_options(args, OF_COLUMNS)
    data = load_data(
        source, workers=args.workers, max_train_samples=args.max_train_samples, protocol=protocol, **columns
    )
    return data.to(accelerator.device)


def fresh_networks(args: argparse.Namespace, name: str, data: ImageData, protocol: str) -> Callable[[int], nn.Module]:
    """Seed -> a freshly initialized network for the data, as the protocol has it."""
    return partial(
        fresh_network,
        name,
        data.num_classes,
        image_size=data.image_size,
        channels_last=args.channels_last,
        **options_under(name, protocol),
    )
