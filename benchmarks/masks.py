"""Pruning and applying a mask: nanoseconds a weight, extra memory, and the ratio to a plain copy.

    python benchmarks/masks.py --weights 24000000
    python benchmarks/masks.py --weights 300000000

Prunes 20 % of the survivors five times in a row. Memory is the growth of the process's peak, less the new mask.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from aws_lottery import SignedMask, prune


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=24_000_000)
    options = parser.parse_args()
    torch.manual_seed(0)
    channels = 512
    layers = max(1, options.weights // (channels * channels * 9))
    model = nn.Sequential(*(nn.Conv2d(channels, channels, 3, bias=False) for _ in range(layers)), nn.Linear(1, 1))
    theta = {name: p.detach() for name, p in model[:-1].named_parameters()}
    masks = {name: torch.ones_like(w, dtype=torch.uint8) for name, w in theta.items()}
    weights = sum(w.numel() for w in theta.values())

    times = []
    for _ in range(5):
        before, start = peak(), time.perf_counter()
        new = prune(theta, masks, 0.2)
        times.append(time.perf_counter() - start)
        extra = peak() - before
        for name, value in new.items():
            masks[name].copy_(value)
        print(f"prune: {1e9 * times[-1] / weights:.1f} ns/weight, peak +{extra / 2**20:.0f} MiB ({weights:,} weights)")
    print(f"prune: median {1e9 * statistics.median(times) / weights:.1f} ns/weight")

    mask = SignedMask.from_model(model, masks=masks)
    source = [torch.randn_like(p) for p in theta.values()]
    ratios = []
    for _ in range(9):
        copying = seconds(lambda: [p.copy_(s) for p, s in zip(theta.values(), source, strict=True)])
        ratios.append(seconds(lambda: mask.apply_(model)) / copying)
    print(f"apply_: median {statistics.median(ratios):.2f} of a plain copy of the weights")


if __name__ == "__main__":
    main()
