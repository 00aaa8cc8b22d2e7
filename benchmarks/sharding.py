"""What a prune of sharded weights costs each process: memory, traffic, seconds; and what that makes of 7 B parameters.

    python benchmarks/sharding.py                                    # 40 M weights, 1, 2 and 4 gloo processes
    python benchmarks/sharding.py --weights 1000000000 --processes 4

The weights are normal, sharded on their first dimension in tensors of 64 M at most, as FSDP2 does it. Memory is what a
process holds above its weights and masks at the peak of the second prune; traffic is what it hands to collectives.
`computed` rows scale the measured constants, and were not measured.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from aws_lottery import prune
from aws_lottery.sharding import local

COLUMNS, LARGEST = 4096, 1 << 26  # of a tensor
HEAD = (
    "| weights | processes | weights a process | extra memory a process, MB | bytes a weight | traffic, MB | seconds |"
)


def resident(name: str) -> int:
    """Bytes, of /proc/self/status: VmRSS is now, VmHWM the most since `reset`."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[name].split()[0])


def reset() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def one(rank: int, world: int, weights: int, rounds: int, folder: str) -> None:
    """What one process does and sees; written to a file."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    mesh, traffic, all_reduce = init_device_mesh("cpu", (world,)), [0], dist.all_reduce

    def counted(tensor: torch.Tensor, *arguments: object, **options: object) -> object:
        traffic[0] += tensor.nbytes
        return all_reduce(tensor, *arguments, **options)

    dist.all_reduce = counted
    theta = {}
    for index, start in enumerate(range(0, weights, LARGEST)):
        rows = min(LARGEST, weights - start) // COLUMNS // world
        part = torch.randn(rows, COLUMNS, generator=torch.Generator().manual_seed(world * index + rank))
        theta[f"{index:03}"] = DTensor.from_local(part, mesh, [Shard(0)])
    masks = {name: torch.ones_like(weight, dtype=torch.uint8) for name, weight in theta.items()}
    masks = prune(theta, masks, 0.2)  # warms up
    seconds, most = [], 0
    for _ in range(rounds):
        dist.barrier()
        reset()
        traffic[0], before, start_time = 0, resident("VmRSS"), time.perf_counter()
        new = prune(theta, masks, 0.2)
        seconds.append(time.perf_counter() - start_time)
        most = max(most, resident("VmHWM") - before)
        masks = new
    here = sum(local(weight).numel() for weight in theta.values())
    Path(folder, str(rank)).write_text(f"{here} {most} {traffic[0]} {statistics.median(seconds)}")
    dist.destroy_process_group()


def measure(weights: int, world: int, rounds: int) -> tuple[int, int, int, float]:
    """Weights a process, extra bytes, bytes of traffic, seconds: the most of any process."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(one, args=(world, weights, rounds, folder), nprocs=world)
        here, most, traffic, seconds = zip(
            *(Path(folder, str(n)).read_text().split() for n in range(world)), strict=True
        )
    return max(map(int, here)), max(map(int, most)), max(map(int, traffic)), max(map(float, seconds))


def computed(weights: int, world: int, fixed: int, traffic: int, seconds: float) -> str:
    """A line for a model that does not fit here.

    Adam: weight, gradient and two moments in float32, and 1 byte of mask. A prune: a new mask, and what is `fixed`.
    """
    here = weights / world
    return (
        f"| computed: {weights:,} | {world} | {here:,.0f} | {(here + fixed) / 1e6:,.0f}, beside "
        f"{17 * here / 1e9:.1f} GB of training, {here / 1e9:.2f} of it masks | {1 + fixed / here:.2f} | "
        f"{traffic / 1e6:.1f} | {seconds * here:.1f} at this CPU's speed |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=40_000_000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(HEAD, "|---|---|---|---|---|---|---|", sep="\n", flush=True)
    for world in options.processes:
        here, extra, traffic, seconds = measure(options.weights, world, options.rounds)
        print(
            f"| {options.weights:,} | {world} | {here:,} | {extra / 1e6:.0f} | {extra / here:.2f} | "
            f"{traffic / 1e6:.1f} | {seconds:.2f} |",
            flush=True,
        )
    for gpus in (8, 64):
        print(computed(7_000_000_000, gpus, max(extra - here, 0), traffic, seconds / here))


if __name__ == "__main__":
    main()
