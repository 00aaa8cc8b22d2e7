"""The command line of a final training from a mask."""

import argparse
import json
from dataclasses import asdict

from ..config import PROTOCOLS
from ..mask import SignedMask
from ..mask_file.sparse_weights import solution_weights
from ..models import ARCHITECTURES, fresh_network
from ..paper import RECIPES
from ..runs.final_training import final_training
from ..training_config import TrainingConfig
from ..transfers import TRANSFERS, transfer_
from .options import accelerator_for, data_for, final_config, options, settings_for


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
    if name is None or name not in ARCHITECTURES:
        parser.error(f"--model is needed: the mask is for '{name}', not one of {', '.join(ARCHITECTURES)}")
    config = final_config(settings_for(name, RECIPES[given.recipe]), given)
    given.output_dir = given.output_dir or f"runs/final-{name}-{given.transfer}-seed{given.seed}"
    given.data_seed = given.seed if given.data_seed is None else given.data_seed
    _train_from(mask, name, config, given)


def _train_from(mask: SignedMask, name: str, config: TrainingConfig, given: argparse.Namespace) -> None:
    accelerator = accelerator_for(given, {"training": asdict(config)})
    data = data_for(given, accelerator)
    model = fresh_network(
        name, data.num_classes, given.seed, image_size=data.image_size, channels_last=given.channels_last
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
        recalibrated=mask.config is None or PROTOCOLS[mask.config.protocol].recalibrate,
    )
    accelerator.print(f"{given.output_dir}: {json.dumps(result, indent=2)}")
    accelerator.end_training()
