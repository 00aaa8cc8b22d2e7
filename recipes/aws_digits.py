"""AWS on handwritten digits, the whole job in under two minutes on one CPU core; nothing is downloaded.

    python recipes/aws_digits.py
    accelerate launch recipes/aws_digits.py                    # uses what `accelerate config` set up
    torchrun --nproc_per_node 2 recipes/aws_digits.py          # two processes, the same global batch

Finds a signed mask of an 8-layer perceptron for every round of AWS (Algorithm 1), chooses one on a validation split,
and trains fresh random initializations with its signed mask, beside controls on the same initializations. Prints the
table of docs/results/digits; writes it, figures, and the mask with its card to --output_dir. Started again, it goes on
where it was. --smoke: seconds, no meaning.
"""

import argparse
import inspect
import json
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration

from aws_lottery import Comparison, SignedMaskConfig, TrainingConfig, find_signed_mask
from aws_lottery.data import ImageData, digit_images
from aws_lottery.experiments.results import Accuracy
from aws_lottery.experiments.tables import table
from aws_lottery.models.perceptron import fresh_perceptron

STILL_LEARNS = 95.0  # percent of the validation digits; dense, the network has about 98


def sparsest_that_learns(search: Path, at_least: float) -> int:
    """The last round whose mask, trained in the round after it, scores `at_least` percent on the validation split."""
    stages = [json.loads(line) for line in (search / "metrics.jsonl").read_text().splitlines()]
    return max(stage["stage"] - 1 for stage in stages[2:] if stage["accuracy"] >= at_least)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/digits"))
    parser.add_argument("--at_once", type=int, default=1, help="final trainings that share their steps; 16 is quicker")
    parser.add_argument("--smoke", action="store_true", help="3 rounds of 1 epoch, 2 initializations")
    options = parser.parse_args()
    rounds, epochs, final_epochs, inits = (3, 1, 1, 2) if options.smoke else (20, 4, 20, 5)

    torch.set_num_threads(1)  # the layers are so small that a second thread costs more than it does
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # without it, processes that torchrun starts on CPUs do not meet
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    train, validation, test = (digit_images(split, validation=360) for split in ("train", "validation", "test"))

    find_signed_mask(
        fresh_perceptron(seed=0),
        train,
        SignedMaskConfig(
            rounds=rounds,
            warmup_epochs=2 * epochs,
            epochs_per_round=epochs,
            architecture="perceptron 64-8x128-10 with BatchNorm (recipes/aws_digits.py)",
        ),
        TrainingConfig(batch_size=64),
        output_dir=options.output_dir / "search",
        accelerator=accelerator,
        test_data=validation,
        about={  # on the card
            "dataset": "scikit-learn digits",
            "task": "image-classification",
            "license": "apache-2.0",
            "command": "python recipes/aws_digits.py" + " --smoke" * options.smoke,
            "model_code": f"import torch\nfrom torch import nn\n\n\n{inspect.getsource(fresh_perceptron)}\n\n"
            "model = fresh_perceptron(seed=1)",
            "limits": ["One small network and 360 test digits (one digit is 0.3 points)."],
        },
    )
    chosen = sparsest_that_learns(options.output_dir / "search", at_least=0 if options.smoke else STILL_LEARNS)

    rows = Comparison(
        [options.output_dir / "search"],
        fresh_perceptron,
        ImageData(train, test, num_classes=10, name="scikit-learn digits"),
        TrainingConfig(epochs=final_epochs, batch_size=64),
        output_dir=options.output_dir / "compared",
        accelerator=accelerator,
        rounds=[chosen],
        transfers=["dense", "solution", "signs", "mask", "random-signs"],
        seeds=range(1, 1 + inits),
        at_once=options.at_once,
    ).run()
    accelerator.print(table([row for row in rows if isinstance(row, Accuracy)]))
    accelerator.print(f"The mask with its card, the plots and all figures are in {options.output_dir}/compared.")
    accelerator.end_training()


if __name__ == "__main__":
    main()
