"""Does it matter how a model is spread over processes? The same search whole, under DDP, FSDP2 and tensor parallel.

    python benchmarks/parallel.py

A perceptron with LayerNorm on the digits, AWS, 4 rounds of 20 % with the same batches and the same alphas; every way
against one process. `equal` is the share of all entries of the signed mask that are the same; `apart` the largest
difference between trained weights, over the largest weight: of the search, and of as many steps of plain training,
without masks or interpolation, which shows what the order of additions alone does.
"""

import argparse
import os
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

from aws_lottery import AWSPruner, SignedMaskConfig
from aws_lottery.data import digit_images
from aws_lottery.sharding import whole

BATCH, STEPS, ROUNDS = 64, 40, 4
WAYS = (("DDP", 2), ("DDP", 4), ("FSDP2", 2), ("FSDP2", 4), ("TP", 2), ("TP", 4), ("FSDP2 x TP", 4))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [nn.LayerNorm(128), nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), *hidden, nn.LayerNorm(128), nn.Linear(128, 10))


def spread(model: nn.Sequential, way: str, world: int) -> tuple[nn.Module, int, int]:
    """The model as it is called, and which share of each batch this process takes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    rank = dist.get_rank() if world > 1 else 0
    if way == "DDP":
        return nn.parallel.DistributedDataParallel(model), rank, world
    if way == "one":
        return model, 0, 1
    tensor = {"FSDP2": 1, "TP": world, "FSDP2 x TP": 2}[way]
    mesh = init_device_mesh("cpu", (world // tensor, tensor), mesh_dim_names=("data", "tensor"))
    if tensor > 1:
        parallelize_module(model, mesh["tensor"], {"3": ColwiseParallel(), "5": RowwiseParallel()})
    if tensor < world:
        for index in (1, 3, 5, 8):
            fully_shard(model[index], mesh=mesh["data"])
        fully_shard(model, mesh=mesh["data"])
    return model, rank // tensor, world // tensor


def stage(network: nn.Module, parameters, seed: int, share: int, shares: int) -> None:
    data = digit_images("train")
    optimizer = torch.optim.SGD(parameters, 0.05, momentum=0.9, weight_decay=5e-4)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    for batch in order.repeat(2).split(BATCH)[:STEPS]:
        images, labels = data.__getitems__(batch[share::shares].tolist())
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()


def one(rank: int, way: str, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    left = {}
    for kind in ("search", "plain"):
        model = network()
        called, share, shares = spread(model, way, world)
        if kind == "search":
            pruner = AWSPruner(model, SignedMaskConfig(rounds=ROUNDS))
            for index, _ in enumerate(pruner.rounds()):
                stage(called, model.parameters(), index, share, shares)
            left["mask"] = dict(pruner.signed_mask())
        else:
            for index in range(ROUNDS + 1):
                stage(called, model.parameters(), index, share, shares)
        left[kind] = {name: whole(parameter.detach()).clone() for name, parameter in model.named_parameters()}
    if rank == 0:
        torch.save(left, f"{folder}/left.pt")
    if world > 1:
        dist.destroy_process_group()


def run(way: str, world: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(one, args=(way, world, folder), nprocs=world)
        return torch.load(Path(folder, "left.pt"))


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max() / b[name].abs().max()) for name in b)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=(), help="ways, of DDP, FSDP2, TP, 'FSDP2 x TP'")
    only = parser.parse_args().only
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    alone = run("one", 1)
    print("| way | processes | signed mask: equal | search: apart | plain training: apart |\n|---|---|---|---|---|")
    for way, world in (row for row in WAYS if not only or row[0] in only):
        other = run(way, world)
        same = sum(int((other["mask"][name] == value).sum()) for name, value in alone["mask"].items())
        equal = same / sum(value.numel() for value in alone["mask"].values())
        figures = (f"{apart(other[kind], alone[kind]):.1e}" for kind in ("search", "plain"))
        print(f"| {way} | {world} | {equal:.5f} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
