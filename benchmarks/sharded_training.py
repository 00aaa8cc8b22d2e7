"""What a training sharded by FSDP2 takes of each process's memory, with a search and without one.

    python benchmarks/sharded_training.py                     # 34 M weights, 1, 2 and 4 gloo processes

Blocks of two linear layers and a LayerNorm, AdamW, float32, made in their shards. `plain` trains without masks;
`search` is an AWS search of one round: warm-up, round, prune. Memory is the most that any process holds above what it
had before the model was made; freed memory goes back at once (MALLOC_MMAP_THRESHOLD_), so it is what is in use.
"""

import argparse
import os
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sharding import reset, resident
from torch import nn

from aws_lottery import AWSPruner, SignedMaskConfig
from aws_lottery.sharding import local

WIDTH, BATCH, STEPS = 512, 8, 2  # steps of a stage
HEAD = "| processes | weights a process | plain, MB | bytes a weight | search, MB | bytes a weight |"


def network(blocks: int, world: int) -> nn.Module:
    """Whole on one process, and in shards, which alone are ever made, on several."""
    from torch.distributed.fsdp import fully_shard

    with torch.device("meta"):
        parts = [
            nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.LayerNorm(4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
            for _ in range(blocks)
        ]
        model = nn.Sequential(*parts)
    if world > 1:
        for part in parts:
            fully_shard(part)
        fully_shard(model)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.02)
    return model


def stage(model: nn.Module) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=False)
    for _ in range(STEPS):
        model(torch.randn(BATCH, WIDTH)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def one(rank: int, world: int, blocks: int, kind: str, folder: str) -> None:
    """What one process holds; written to a file: weights, bytes of the training."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    torch.manual_seed(rank)
    reset()
    before = resident("VmRSS")
    model = network(blocks, world)
    if kind == "plain":
        for _ in range(2):
            stage(model)
    else:
        pruner = AWSPruner(model, SignedMaskConfig(rounds=1, warmup_epochs=1, epochs_per_round=1))
        for _ in pruner.rounds():
            stage(model)
        assert 0.79 < pruner.remaining < 0.81
    here = sum(local(parameter).numel() for parameter in model.parameters())
    Path(folder, str(rank)).write_text(f"{here} {resident('VmHWM') - before}")
    dist.destroy_process_group()


def measure(world: int, blocks: int, kind: str) -> tuple[int, int]:
    """Weights and bytes, the most of any process."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(one, args=(world, blocks, kind, folder), nprocs=world)
        rows = [map(int, Path(folder, str(rank)).read_text().split()) for rank in range(world)]
    here, most = zip(*rows, strict=True)
    return max(here), max(most)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=16, help="of 2.1 M weights each")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # glibc of the processes that are started reads it
    print(HEAD, "|---|---|---|---|---|---|", sep="\n", flush=True)
    for world in options.processes:
        here, plain = measure(world, options.blocks, "plain")
        print(f"| {world} | {here:,} | {plain / 1e6:.0f} | {plain / here:.1f} | ", end="", flush=True)
        here, search = measure(world, options.blocks, "search")
        print(f"{search / 1e6:.0f} | {search / here:.1f} |", flush=True)


if __name__ == "__main__":
    main()
