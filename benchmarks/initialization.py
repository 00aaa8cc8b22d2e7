"""What the initialization of depthwise convolutions does to a search and to the signs that it transfers.

    python benchmarks/initialization.py                            # six minutes of one core
    python benchmarks/initialization.py --networks shufflenet      # two; docs/notes/initialization.md has the figures

On the digits, enlarged to 16 pixels: an AWS search, then |theta_init| * s on a fresh network with the same
initialization, trained for an epoch. `torch` is torch's default in every convolution, `fan_out` N(0, 2 / fan_out). A
line each: the share of weights left, of depthwise convolutions and of all that are prunable; the share of the
transferred signs that flip in that epoch, likewise; and accuracies on the test digits after the search and after the
epoch, BatchNorm re-estimated.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from aws_lottery import AWSPruner, SignedMask, SignedMaskConfig, TrainingConfig
from aws_lottery.data import Images
from aws_lottery.data.digits import digit_images
from aws_lottery.evaluation import accuracy_of
from aws_lottery.experiments.search_statistics import sign_flips
from aws_lottery.models import fresh_network
from aws_lottery.models.layers import he_init_
from aws_lottery.signs import remaining
from aws_lottery.training import train

WAYS: dict[str, Callable[[nn.Module], None]] = {"fan_out": he_init_, "torch": lambda model: None}
TRAINING = TrainingConfig(learning_rate=0.05, batch_size=64, schedule="constant")  # the rest is the paper's


def enlarged(split: str, size: int) -> Images:
    """The digits as images (N, 3, size, size)."""
    pixels, labels = digit_images(split).tensors
    large = F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False)
    return Images(large.expand(-1, 3, -1, -1).contiguous(), labels)


def depthwise(model: nn.Module) -> list[str]:
    """Names of the weights of convolutions with a channel in each group."""
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    return [f"{name}.weight" for name, m in layers if m.groups == m.in_channels > 1]


class Measurement:
    """A search and an epoch of final training, with networks that start in one of the WAYS."""

    def __init__(self, network: str, way: str, options: argparse.Namespace):
        self.network, self.way, self.options = network, WAYS[way], options
        self.accelerator = Accelerator(cpu=True)
        self.images, self.test = enlarged("train", options.size), enlarged("test", options.size)

    def fresh(self, seed: int) -> nn.Module:
        model = fresh_network(self.network, 10, seed, image_size=self.options.size)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.way(model)
        return model

    def run(self, seed: int) -> str:
        model = self.fresh(seed)
        names = depthwise(model)
        mask = self._search(model, seed)
        found = self._accuracy(model)
        model = self.fresh(seed + 100)
        mask.apply_(model)
        with mask.held(model):
            self._train(model, seed, epochs=1)
        after = SignedMask.from_model(model, mask.config)
        left = [remaining({name: mask[name] for name in names}), mask.remaining]
        flips = [
            sign_flips({name: mask[name] for name in some}, {name: after[name] for name in some})
            for some in (names, mask.prunable)
        ]
        shares = "  ".join(f"{100 * share:5.1f}" for share in (*left, *flips))
        return f"{shares}   {found:5.1f}  {self._accuracy(model):5.1f}"

    def _search(self, model: nn.Module, seed: int) -> SignedMask:
        config = SignedMaskConfig(
            rounds=self.options.rounds, warmup_epochs=self.options.warmup_epochs, epochs_per_round=1, seed=seed
        )
        pruner = AWSPruner(model, config)
        for stage in pruner.rounds():
            self._train(model, 1000 * seed + stage.index, stage.epochs)
        mask = pruner.signed_mask()
        pruner.detach()
        return mask

    def _train(self, model: nn.Module, seed: int, epochs: int) -> None:
        config = replace(TRAINING, epochs=epochs)
        train(model, self.images, config, accelerator=self.accelerator, seed=seed)

    def _accuracy(self, model: nn.Module) -> float:
        batch_size = TRAINING.batch_size
        return accuracy_of(
            model, self.test, train_data=self.images, batch_size=batch_size, accelerator=self.accelerator
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["mobilenetv2"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--size", type=int, default=16, help="pixels")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--warmup_epochs", type=int, default=2)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {options.size} px, {options.rounds} rounds")
    print("                          remaining, %   flipped, %    accuracy, %")
    print("                          depthw.   all  depthw. all   search  epoch")
    for network in options.networks:
        for way in WAYS:
            for seed in options.seeds:
                print(f"{network:12} {way:8} {seed}   {Measurement(network, way, options).run(seed)}", flush=True)


if __name__ == "__main__":
    main()
