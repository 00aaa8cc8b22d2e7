"""Whether winning signs win: searches, final trainings from them, barriers; table, plots and cards, in one command.

    python recipes/evidence.py cifar10-resnet8 --dataset CIFAR10_FOLDER              # 17 minutes on 2 busy cores
    python recipes/evidence.py tiny32-resnet20 --dataset TINY_IMAGENET_32_FOLDER     # 90 minutes on 2 busy cores
    python recipes/evidence.py tiny32-resnet50 --dataset TINY_IMAGENET_32_FOLDER --mixed_precision bf16 \\
        --channels_last --compile                                                    # one GPU; not run yet

EXPERIMENTS below says what each does. Killed and started again it goes on: `timeout -s TERM 570 python ...` does ten
minutes of it. Started several times at once with the same options, the processes share the work, on one GPU, or on a
CPU with --threads 1 for each. Results: docs/results. --smoke: seconds, on made-up images.
"""

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from datasets import ClassLabel, DatasetDict, load_dataset
from torch import nn

from aws_lottery import SignedMaskConfig, TrainingConfig, find_signed_mask, load_data
from aws_lottery.cli.options import accelerator_for, machine_options
from aws_lottery.data import ImageData
from aws_lottery.data.made_up import made_up_images
from aws_lottery.data.presets import CIFAR
from aws_lottery.experiments.comparison import Comparison
from aws_lottery.models import fresh_network, model_code, options_under
from aws_lottery.paper import SMALL_IMAGES
from aws_lottery.runs.lock import do_all


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A search by each method, and what is trained from their rounds; final training as the paper's, shortened."""

    dataset: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)  # of the network
    image_size: int = 32
    images: int | None = None  # None: all
    classes: range | None = None  # None: all
    protocol: str = "paper"
    methods: tuple[str, ...] = ("aws", "lrr")
    warmup_epochs: int = 10
    epochs_per_round: int = 10
    search_rounds: int
    search_seed: int = 0  # of initialization, data order and alpha
    final: TrainingConfig
    rounds: tuple[int, ...]
    barrier_rounds: tuple[int, ...]
    transfers: tuple[str, ...] = ("dense", "solution", "signs", "mask", "lrr:signs-norm")
    first: tuple[str, ...] = ()  # of the transfers: for every seed before any other
    seeds: tuple[int, ...] = (1, 2)
    barrier_seeds: tuple[int, ...] | None = None
    dense_as_long: tuple[int, ...] = ()  # rounds: dense networks as long as the search to there and the final training


PAPER = SMALL_IMAGES["resnet50"].final
EXPERIMENTS = {
    "cifar10-resnet8": Experiment(
        dataset="uoft-cs/cifar10",
        model="resnet8",
        image_size=16,
        images=5000,
        methods=("aws",),
        warmup_epochs=10,
        epochs_per_round=6,
        search_rounds=10,
        final=replace(PAPER, epochs=24, batch_size=64),
        rounds=(10,),
        barrier_rounds=(10,),
        transfers=("dense", "solution", "signs", "mask"),
        seeds=(1, 2, 3),
        barrier_seeds=(1,),
    ),
    "tiny32-resnet20": Experiment(
        dataset="tiny-imagenet-32",
        model="resnet20",
        image_size=16,
        images=10_000,
        warmup_epochs=10,
        epochs_per_round=4,
        search_rounds=9,
        final=replace(PAPER, epochs=16, batch_size=64),
        rounds=(9,),
        barrier_rounds=(9,),
        barrier_seeds=(1,),
        transfers=("dense", "solution", "signs", "aws:mask", "lrr:signs-norm"),
    ),
    "tiny32-resnet50": Experiment(
        dataset="tiny-imagenet-32",
        model="resnet50",
        warmup_epochs=10,
        epochs_per_round=10,
        search_rounds=11,
        final=replace(PAPER, epochs=40),
        rounds=(11,),
        barrier_rounds=(11,),
        barrier_seeds=(1,),
    ),
    # the plan of docs/results/tiny32-mobilenetv2, stated there before the first run, and the mask of LRR
    "tiny32-mobilenetv2": Experiment(
        dataset="tiny-imagenet-32",
        model="mobilenetv2",
        options={"width": 0.25},
        image_size=16,
        classes=range(50),
        protocol="released-code",
        warmup_epochs=8,
        epochs_per_round=4,
        search_rounds=6,
        final=replace(PAPER, epochs=16, learning_rate=0.05, weight_decay=2e-3, schedule="cosine"),
        rounds=(6,),
        barrier_rounds=(),
        first=("signs",),
        transfers=("dense", "solution", "signs", "signs-norm", "aws:mask", "lrr:mask"),
        seeds=(11, 12, 13),
    ),
}
# the later plans there: the same searches from other seeds
for letter, search_seed in (("b", 1), ("c", 2)):
    EXPERIMENTS[f"tiny32-mobilenetv2-{letter}"] = replace(
        EXPERIMENTS["tiny32-mobilenetv2"],
        search_seed=search_seed,
        transfers=("dense", "solution", "signs", "signs-norm", "mask"),
        seeds=(10 * search_seed + 11, 10 * search_seed + 12),
    )
for letter, search_seed in (("d", 3), ("e", 4), ("f", 5), ("g", 6)):
    EXPERIMENTS[f"tiny32-mobilenetv2-{letter}"] = replace(
        EXPERIMENTS["tiny32-mobilenetv2"],
        search_seed=search_seed,
        search_rounds=9,
        rounds=(6, 9),
        transfers=("signs", "mask"),
        seeds=(10 * search_seed + 11,),
        dense_as_long=(6,),
    )
SMOKE = {"images": None, "image_size": 16, "warmup_epochs": 1, "epochs_per_round": 1, "search_rounds": 2, "seeds": (1,)}


def main() -> None:
    parser = machine_options(__doc__)
    parser.add_argument("experiment", choices=list(EXPERIMENTS))
    parser.add_argument("--dataset", default=None, help="folder or id on the Hub; default: the experiment's")
    args = parser.parse_args()
    row = EXPERIMENTS[args.experiment]
    if args.smoke:
        row = replace(row, **SMOKE, rounds=(2,), barrier_rounds=(2,), final=replace(row.final, epochs=1, batch_size=8))
        row = replace(row, dense_as_long=row.dense_as_long and (2,))
    args.output_dir = args.output_dir or f"runs/{args.experiment}"
    accelerator = accelerator_for(args)
    data = load_data(
        made_up_images(32) if args.smoke else images_of(args.dataset or row.dataset, row.classes),
        max_train_samples=row.images,
        augmentation=replace(CIFAR, size=row.image_size, padding=row.image_size // 8),
        decoded=True,
        workers=args.workers,
    ).to(accelerator.device)
    fresh = partial(
        fresh_network,
        row.model,
        data.num_classes,
        image_size=data.image_size,
        channels_last=args.channels_last,
        **options_of(row),
    )

    do_all(
        (partial(search, row, method, fresh, data, args.output_dir, accelerator) for method in row.methods),
        accelerator,
    )

    def compare(folder: str, training: TrainingConfig, **what: Any) -> None:
        comparison = Comparison(
            [f"{args.output_dir}/search-{method}" for method in row.methods],
            fresh,
            data,
            training,
            output_dir=f"{args.output_dir}/{folder}",
            accelerator=accelerator,
            seeds=row.seeds,
            **what,
        )
        comparison.run()
        accelerator.print((comparison.folder / "table.md").read_text())

    for transfers in dict.fromkeys((row.first or row.transfers, row.transfers)):
        compare(
            "comparison",
            row.final,
            rounds=row.rounds,
            transfers=transfers,
            barrier_seeds=row.barrier_seeds,
            barrier_rounds=row.barrier_rounds,
        )
    for index in row.dense_as_long:
        epochs = row.warmup_epochs + index * row.epochs_per_round + row.final.epochs
        compare(f"dense-{epochs}-epochs", replace(row.final, epochs=epochs), rounds=(index,), transfers=("dense",))


def images_of(source: str, classes: range | None) -> str | DatasetDict:
    """The data set, or of its images those of some classes, which are then numbered from 0."""
    if classes is None:
        return source
    parts = load_dataset(source)
    names = parts["train"].features["label"].names[classes.start : classes.stop]
    chosen = parts.filter(lambda labels: [x in classes for x in labels], input_columns="label", batched=True)
    numbered = chosen.map(lambda label: {"label": label - classes.start}, input_columns="label")
    return numbered.cast_column("label", ClassLabel(names=names))


def options_of(row: Experiment) -> dict[str, Any]:
    """Of the network."""
    return {**row.options, **options_under(row.model, row.protocol)}


def search(
    row: Experiment, method: str, fresh: Callable[[int], nn.Module], data: ImageData, folder: str, accelerator: Any
) -> None:
    config = SignedMaskConfig(
        method=method,
        rounds=row.search_rounds,
        warmup_epochs=row.warmup_epochs,
        epochs_per_round=row.epochs_per_round,
        protocol=row.protocol,
        seed=row.search_seed,
        architecture=row.model,
    )
    find_signed_mask(
        fresh(row.search_seed),
        data.train,
        config,
        replace(row.final, schedule="constant"),
        output_dir=f"{folder}/search-{method}",
        accelerator=accelerator,
        test_data=data.test,
        seed=row.search_seed,
        about={
            "dataset": data.name,
            "task": "image-classification",
            "command": shlex.join(sys.argv),
            "model_code": model_code(row.model, data.num_classes, row.image_size, **options_of(row)),
        },
    )


if __name__ == "__main__":
    main()
