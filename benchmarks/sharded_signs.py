"""What the signed mask of a sharded model costs each process: memory while it is made, kept and used; seconds.

    python benchmarks/sharded_signs.py                             # 1e8 weights, 4 gloo processes
    python benchmarks/sharded_signs.py --weights 1000000000

The weights are float32 in tensors of 64 Mi at most, sharded on their first dimension, as FSDP2 does it; a fifth of them
is not 0. All processes call each step, but `save_pretrained`, which the first one does. *Peak* is the most that any
process held during a step above what it had before it, *kept* is what stays of it; seconds are of a process's CPU
time, so that other jobs on the machine count less.
"""

import argparse
import ctypes
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sharding import reset, resident
from torch import nn

from aws_lottery import SignedMask, SignedMaskConfig

COLUMNS, LARGEST, REMAINING = 4096, 1 << 26, 0.2
CONFIG = SignedMaskConfig(prune_classifier=True)  # the last layer as the others
STEPS = ("SignedMask.from_model", "save_pretrained", "from_pretrained", "apply_", "held")


def give_back() -> None:
    """Let the C library return to the system what it holds in reserve, so that the figures are of what is in use."""
    ctypes.CDLL(None).malloc_trim(0)


def sharded_model(weights: int, world: int, rank: int) -> nn.Module:
    """Linear layers whose parts are made where they lie: the whole is nowhere."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    mesh, layers = init_device_mesh("cpu", (world,)), []
    for index, start in enumerate(range(0, weights, LARGEST)):
        rows = min(LARGEST, weights - start) // COLUMNS // world
        layer = nn.Linear(COLUMNS, rows * world, bias=False, device="meta")
        generator = torch.Generator().manual_seed(world * index + rank)
        part = torch.randn(rows, COLUMNS, generator=generator)
        part[torch.rand(rows, COLUMNS, generator=generator) > REMAINING] = 0
        layer.weight = nn.Parameter(DTensor.from_local(part, mesh, [Shard(0)]))
        layers.append(layer)
    return nn.Sequential(*layers)


def one(rank: int, world: int, weights: int, folder: str) -> None:
    """What one process does and sees; written to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    lines: list[str] = []

    def measured(step: Callable[[], Any]) -> Any:
        dist.barrier()
        give_back()
        reset()
        before, start = resident("VmRSS"), time.process_time()
        result = step()
        seconds, most = time.process_time() - start, resident("VmHWM")
        give_back()
        lines.append(f"{most - before} {resident('VmRSS') - before} {seconds}")
        return result

    small, model = sharded_model(1 << 20, world, rank), sharded_model(weights, world, rank)
    with SignedMask.from_model(small, CONFIG).held(small):  # what is imported, and set up once, counts for no step
        pass
    mask = measured(lambda: SignedMask.from_model(model, CONFIG))
    measured(lambda: mask.save_pretrained(f"{folder}/mask") if rank == 0 else None)
    dist.barrier()
    del mask
    mask = measured(lambda: SignedMask.from_pretrained(f"{folder}/mask"))
    measured(lambda: mask.apply_(model))
    measured(lambda: mask.held(model))
    Path(folder, str(rank)).write_text("\n".join(lines))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=100_000_000)
    parser.add_argument("--processes", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(one, args=(options.processes, options.weights, folder), nprocs=options.processes)
        processes = [Path(folder, str(rank)).read_text().splitlines() for rank in range(options.processes)]
    print("| weights | processes | step | peak, MB | kept, MB | CPU seconds |", "|---|---|---|---|---|---|", sep="\n")
    for step, lines in zip(STEPS, zip(*processes, strict=True), strict=True):
        peak, kept, seconds = (max(map(float, column)) for column in zip(*map(str.split, lines), strict=True))
        size = f"{options.weights:,} | {options.processes}"
        print(f"| {size} | `{step}` | {peak / 1e6:.0f} | {kept / 1e6:.0f} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
