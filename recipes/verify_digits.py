"""Is the mask of handwritten digits that the project ships a winning sign? On one CPU core; nothing is downloaded.

    python recipes/verify_digits.py                                   # 5 seeds
    python recipes/verify_digits.py --seeds 20                        # 15 more; docs/results/verify has such a run
    python recipes/verify_digits.py --at_once 16                      # in less than half of the time
    python recipes/verify_digits.py --mask random --output_dir runs/verify-random    # the verdict on wrong signs

Trains the perceptron of recipes/aws_digits.py dense, with the signs and with the controls, from each initialization,
and judges the claims of docs/verify.md. Killed and started again, it goes on.
"""

import argparse

import torch

from aws_lottery import SignedMask, TrainingConfig, verify
from aws_lottery.data import ImageData, digit_images
from aws_lottery.models.perceptron import fresh_perceptron


def wrong_signs(mask: SignedMask, kind: str) -> SignedMask:
    """The mask with random signs, or with all of its signs turned round; `true`: itself."""
    if kind == "true":
        return mask
    if kind == "random":
        return mask.with_random_signs(seed=12345)
    values = {name: -value for name, value in mask.items()}
    return SignedMask(values, mask.config, prunable=mask.prunable, parameters=mask.parameters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="model_cards/digits", help="of the mask")
    parser.add_argument("--mask", choices=("true", "random", "negated"), default="true")
    parser.add_argument("--seeds", type=int, default=5, help="number of initializations")
    parser.add_argument("--epochs", type=int, default=20, help="of each final training")
    parser.add_argument("--learning_rate", type=float, default=TrainingConfig.learning_rate)
    parser.add_argument("--margin", type=float, default=1.0, help="points of accuracy that count")
    parser.add_argument("--at_once", type=int, default=1, help="trainings that share their steps")
    parser.add_argument("--output_dir", default="runs/verify-digits")
    parser.add_argument("--smoke", action="store_true", help="seconds; shows that it runs, no more")
    options = parser.parse_args()
    if options.smoke:
        options.seeds, options.epochs = 2, 1
    torch.set_num_threads(1)  # the layers are so small that a second thread costs more than it does
    verdict = verify(
        wrong_signs(SignedMask.from_pretrained(options.folder), options.mask),
        fresh_perceptron,
        ImageData(digit_images("train"), digit_images("test"), 10, "scikit-learn digits"),
        TrainingConfig(epochs=options.epochs, learning_rate=options.learning_rate, batch_size=64),
        output_dir=options.output_dir,
        seeds=range(1, options.seeds + 1),
        margin=options.margin,
        at_once=options.at_once,
    )
    print(verdict)


if __name__ == "__main__":
    main()
