"""Kills a search at random moments and resumes it: does it end with the same signs, bit for bit?

    python benchmarks/kills.py --kills 50

A search of the digits' perceptron on one CPU core, with a checkpoint after every step. Each trial is killed by
SIGKILL at a random moment of its run time, until it has ended by itself; its mask is then compared with that of a run
left alone.
"""

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from accelerate import Accelerator

from aws_lottery import SignedMask, SignedMaskConfig, TrainingConfig, find_signed_mask
from aws_lottery.data import Images, digit_images

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes"))
from aws_digits import fresh_network

CONFIG = SignedMaskConfig(rounds=3, warmup_epochs=1, epochs_per_round=1)


def search(folder: Path, data: Images) -> None:
    torch.set_num_threads(1)
    accelerator, training = Accelerator(cpu=True), TrainingConfig(batch_size=64)
    model = fresh_network(seed=0)
    find_signed_mask(model, data, CONFIG, training, output_dir=folder, accelerator=accelerator, checkpoint_seconds=0.0)


def run(folder: Path, data: Images, seconds: float | None) -> int:
    """Exit code of a search in a process of its own, killed after some seconds if it still runs."""
    process = multiprocessing.get_context("fork").Process(target=search, args=(folder, data))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw, data, last = random.Random(options.seed), digit_images("train"), f"round-{CONFIG.rounds:02}"
    with tempfile.TemporaryDirectory() as root:
        start = time.monotonic()
        assert run(Path(root, "whole"), data, None) == 0
        whole, expected = time.monotonic() - start, SignedMask.from_pretrained(Path(root, "whole", last))
        kills = trials = 0
        while kills < options.kills:
            folder = Path(root, f"trial-{trials}")
            while code := run(folder, data, draw.uniform(0, whole)):
                assert code == -9, f"the search failed by itself: exit code {code}"
                kills += 1
            assert SignedMask.from_pretrained(folder / last) == expected, f"trial {trials} ended with other signs"
            trials += 1
    print(f"{kills} kills in {trials} searches of {whole:.1f} s: all ended with the same mask")


if __name__ == "__main__":
    main()
