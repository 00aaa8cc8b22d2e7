"""Gem-Miner with its published hyper-parameters (paper.GEM_MINER) on the digits: what scores alone can learn.

    python benchmarks/gem_miner.py                   # a minute on a core; the figures of docs/notes/gem-miner.md

150 epochs with 29 freezes, on a perceptron with three hidden layers of 128 and BatchNorm, whose weights never move. A
line for every fifth freeze: the share of weights that is not frozen; the share that is in the network (scores that
round to 1), of all and of each layer; and test accuracy in percent. Then A(|theta_init| s) on the same initialization,
and on another one, with the published rate of fine-tuning, BatchNorm re-estimated.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from aws_lottery import SignedMask, SignedMaskConfig, find_signed_mask, train
from aws_lottery.data.digits import digit_images
from aws_lottery.evaluation import accuracy_of
from aws_lottery.paper import GEM_MINER
from aws_lottery.runs.metrics_log import METRICS_FILE
from aws_lottery.runs.round_folder import round_folder


def perceptron(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    hidden = [
        layer for size in (64, 128, 128) for layer in (nn.Linear(size, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU())
    ]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(128, 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--protocol", default="released-code", help="its order of a round is Gem-Miner's")
    options = parser.parse_args()
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            mine(seed, options.protocol, Path(folder))


def mine(seed: int, protocol: str, folder: Path) -> None:
    accelerator, images, test = Accelerator(cpu=True), digit_images("train"), digit_images("test")
    stages = {name: getattr(GEM_MINER, name) for name in ("rounds", "warmup_epochs", "epochs_per_round", "prune_rate")}
    config = SignedMaskConfig(method="gm", protocol=protocol, seed=seed, **stages)
    options = {"output_dir": folder, "accelerator": accelerator, "test_data": test, "seed": seed}
    mask = find_signed_mask(perceptron(seed), images, config, GEM_MINER.search, **options)
    lines = [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]
    for line in [line for line in lines if line["stage"] % 5 == 4 or line["stage"] == 0]:
        print(f"seed {seed}, freeze {line['stage']:2}: not frozen {line['remaining']:.4f}, ", end="")
        if line["stage"]:
            found = SignedMask.from_pretrained(round_folder(folder, line["stage"]))
            layers = " ".join(f"{row.remaining:.3f}" for row in found.table() if row.prunable)
            print(f"in the network {found.remaining:.4f} ({layers}), ", end="")
        print(f"test accuracy {line['accuracy']:.1f}", flush=True)
    for what, start in (("the same", seed), ("another", seed + 100)):
        model = perceptron(start)
        mask.apply_(model)
        with mask.held(model):
            train(model, images, GEM_MINER.final, accelerator=accelerator, seed=seed)
        batch_size = GEM_MINER.final.batch_size
        accuracy = accuracy_of(model, test, train_data=images, batch_size=batch_size, accelerator=accelerator)
        print(f"seed {seed}: fine-tuned from {what} initialization: {accuracy:.1f}", flush=True)


if __name__ == "__main__":
    main()
