"""Size and speed of the file of a signed mask that is shaped like ResNet-50's.

    python benchmarks/packing.py --remaining 0.14

The mask is random: each convolution has a density of its own, over all of them --remaining of the weights are
left, and the classifier is fully signed. Memory is measured on Linux only.
Measured, one thread of two shared cores of an AMD EPYC: 2,321,420 bytes, 1.011 times the Shannon limit; write
4 ns, read 4 ns a weight; peak memory of reading, 1.2 times the decoded signs.
"""

import argparse
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from aws_lottery.mask_file import packing


def resnet50_shapes() -> dict[str, tuple[int, ...]]:
    """Name -> shape of the convolutions and of the classifier."""
    shapes = {"conv1.weight": (64, 3, 7, 7)}
    inputs = 64
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], start=1):
        for block in range(blocks):
            prefix = f"layer{stage}.{block}."
            shapes[prefix + "conv1.weight"] = (width, inputs, 1, 1)
            shapes[prefix + "conv2.weight"] = (width, width, 3, 3)
            shapes[prefix + "conv3.weight"] = (4 * width, width, 1, 1)
            if block == 0:
                shapes[prefix + "downsample.0.weight"] = (4 * width, inputs, 1, 1)
            inputs = 4 * width
    return {**shapes, "fc.weight": (1000, inputs)}


def uneven_densities(sizes: list[int], remaining: float, rng: torch.Generator) -> list[float]:
    """A density in (0, 0.7] for each size, low for large layers, that leave `remaining` of all elements."""
    noise = torch.randn(len(sizes), generator=rng).mul(0.3).exp().tolist()
    raw = [size**-0.35 * factor for size, factor in zip(sizes, noise, strict=True)]
    low, high = 0.0, 0.7 / min(raw)
    for _ in range(60):  # bisect for the factor
        factor = (low + high) / 2
        densities = [min(0.7, factor * value) for value in raw]
        left = sum(density * size for density, size in zip(densities, sizes, strict=True))
        low, high = (low, factor) if left > remaining * sum(sizes) else (factor, high)
    return densities


def random_mask(shapes: dict[str, tuple[int, ...]], remaining: float, seed: int) -> dict[str, Tensor]:
    """Name -> random signs; the last tensor is the classifier, without a zero."""
    rng = torch.Generator().manual_seed(seed)
    sizes = [math.prod(shape) for shape in shapes.values()]
    densities = [*uneven_densities(sizes[:-1], remaining, rng), 1.0]
    mask = {}
    for (name, shape), density in zip(shapes.items(), densities, strict=True):
        uniform = torch.rand(shape, generator=rng)
        mask[name] = (uniform < density).to(torch.int8) - 2 * (uniform < density / 2).to(torch.int8)
    return mask


def shannon_bits(signs: Tensor) -> float:
    """Entropy of the positions for this many nonzeros, and one bit for each sign."""
    p = torch.count_nonzero(signs).item() / signs.numel()
    entropy = sum(-q * math.log2(q) for q in (p, 1 - p) if q)
    return signs.numel() * (entropy + p)


def fastest(function: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def read_peak(path: Path) -> int:
    """Bytes by which reading raises the peak of this process's resident memory; it must be a fresh one."""
    before = _peak_memory()
    packing.read(path)
    return _peak_memory() - before


def _peak_memory() -> int:
    # not getrusage: its peak counts what a parent process had before this one
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--remaining", type=float, default=0.14, help="of the convolutions' weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)

    signs = random_mask(resnet50_shapes(), args.remaining, args.seed)
    weights = sum(s.numel() for s in signs.values())
    survivors = sum(int(s.count_nonzero()) for s in signs.values())
    limit = sum(map(shannon_bits, signs.values())) / 8
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "signed_mask.safetensors"
        written = fastest(lambda: packing.write(path, signs, {}), args.repeats)
        read = fastest(lambda: packing.read(path), args.repeats)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            peak = pool.submit(read_peak, path).result()
        ours = path.stat().st_size

    print(f"{weights:,} weights, {survivors:,} survivors; Shannon limit {limit:,.0f} bytes")
    sizes = {"int8": weights, "bitmask + signs": (weights + survivors) / 8, "this file": ours}
    for name, size in sizes.items():
        print(f"{name:16} {size:12,.0f} bytes {size / limit:8.4f} x the limit")
    print(f"write {1e9 * written / weights:.1f} ns a weight ({written:.2f} s), fsync included")
    print(f"read  {1e9 * read / weights:.1f} ns a weight ({read:.2f} s), checksum included")
    print(f"reading raises peak memory by {peak / 1e6:.0f} MB, {peak / weights:.2f} x the decoded signs")


if __name__ == "__main__":
    main()
