"""The command line of a search."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from ..config import METHODS, PROTOCOLS, SignedMaskConfig
from ..criteria import CRITERIA
from ..models import fresh_network, model_code
from ..paper import Settings
from ..runs.search import find_signed_mask, round_folder
from ..training import steps_an_epoch
from .options import accelerator_for, adjusted, data_for, options, settings_for

SMOKE = {"warmup_epochs": 1, "epochs_per_round": 1, "rounds": 2}  # and a final training of one epoch


def search_main(description: str | None, dataset: str, settings: Mapping[str, Settings]) -> None:
    """The command line of a search recipe."""
    parser = options(description, dataset, settings)
    parser.add_argument("--method", choices=list(METHODS), default="aws")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), default="paper")
    parser.add_argument("--criterion", choices=list(CRITERIA), default="magnitude", help="the smallest are pruned")
    parser.add_argument(
        "--rounds", type=int, default=None, help="prunes of 20 %% of the survivors; default: the paper's"
    )
    parser.add_argument("--warmup_epochs", type=int, default=None, help="default: the paper's")
    parser.add_argument("--epochs_per_round", type=int, default=None, help="default: the paper's")
    parser.add_argument("--push_to_hub", metavar="REPO", help="publish the last mask there")
    given = parser.parse_args()
    model_name = given.model or next(iter(settings))
    paper = settings_for(model_name, settings)
    search: dict[str, Any] = {name: getattr(paper, name) for name in SMOKE} | (SMOKE if given.smoke else {})
    search |= {name: value for name in SMOKE if (value := getattr(given, name)) is not None}
    config = SignedMaskConfig(
        method=given.method,
        protocol=given.protocol,
        criterion=given.criterion,
        seed=given.seed,
        architecture=model_name,
        **search,
    )
    training = adjusted(paper.search, given)
    if given.output_dir is None:
        given.output_dir = f"runs/{given.dataset.split('/')[-1]}-{model_name}-{given.method}-seed{given.seed}"
    folder = Path(given.output_dir)
    accelerator = accelerator_for(given, {"search": config.to_dict(), "training": asdict(training)})
    data = data_for(given, accelerator)
    model = fresh_network(
        model_name, data.num_classes, given.seed, image_size=data.image_size, channels_last=given.channels_last
    )
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


def _cost(model: nn.Module, config: SignedMaskConfig, batch_size: int, steps: int) -> str:
    assert config.rounds is not None
    size = sum(p.numel() for p in model.parameters()) * (4 + 4 + 1) / 1e9  # weights, a moment (Adam has two), masks
    return (
        f"{config.method}, {config.rounds} rounds to {(1 - config.prune_rate) ** config.rounds:.3f} remaining: "
        f"{config.epochs} epochs, {config.epochs * steps:,} steps of {batch_size} images; "
        f"about {size:.2f} GB of checkpoint. An estimate of the hours follows after the first steps."
    )
