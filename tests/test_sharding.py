"""Weights spread over four gloo processes, on meshes of one and two dimensions: what is pruned is what one prunes."""

import pytest
import torch
from accelerate import debug_launcher
from torch import nn

from aws_lottery import prune, remaining, sign0
from aws_lottery.sharding import as_laid_out, counted, local, positions, total, whole

pytestmark = [pytest.mark.multiprocess, pytest.mark.filterwarnings("ignore")]  # torch.distributed's own warnings


def whole_weights() -> dict[str, torch.Tensor]:
    """Uneven shapes, and many equal magnitudes among them, at the threshold too."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"b": (7, 5), "a": (3, 2, 2), "c": (13,), "d": (1, 9)}
    return {name: torch.randint(-3, 4, shape, generator=generator) / 2 for name, shape in shapes.items()}


def layouts() -> list:
    """Mesh and placements: one dimension, replicas of shards, two dimensions sharded either way, and one of two."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard

    flat, square = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    return [
        (flat, [Shard(0)]),
        (square, [Replicate(), Shard(0)]),
        (square, [Shard(0), Replicate()]),
        (square, [Shard(0), Shard(1)]),
        (square, [Shard(1), Shard(0)]),
        (square["data"], [Shard(0)]),
    ]


def spread(tensors, mesh, placements):
    from torch.distributed.tensor import Shard, distribute_tensor

    def placed(tensor):
        return [Shard(0) if p == Shard(1) and tensor.dim() == 1 else p for p in placements]

    return {name: distribute_tensor(tensor, mesh, placed(tensor)) for name, tensor in tensors.items()}


def _prunes_as_one_process():
    theta = whole_weights()
    for mesh, placements in layouts():
        masks = {name: torch.ones_like(value, dtype=torch.uint8) for name, value in theta.items()}
        sharded, sharded_masks = spread(theta, mesh, placements), spread(masks, mesh, placements)
        for rate in (0.2, 0.5, 0.3):
            masks, sharded_masks = prune(theta, masks, rate), prune(sharded, sharded_masks, rate)
            assert {n: m.tolist() for n, m in masks.items()} == {n: whole(m).tolist() for n, m in sharded_masks.items()}
            assert remaining(sharded_masks) == remaining(masks)
        signs, sharded_signs = sign0(theta, masks), sign0(sharded, sharded_masks)
        assert {n: s.tolist() for n, s in signs.items()} == {n: whole(s).tolist() for n, s in sharded_signs.items()}


def _only_some_are_sharded():
    theta = whole_weights()
    masks = {name: torch.ones_like(value, dtype=torch.uint8) for name, value in theta.items()}
    some = [name for name in theta if name != "c"]
    for mesh, placements in layouts():
        sharded = {**theta, **spread({name: theta[name] for name in some}, mesh, placements)}
        sharded_masks = {**masks, **spread({name: masks[name] for name in some}, mesh, placements)}
        pruned = prune(sharded, sharded_masks, 0.6)
        assert {n: m.tolist() for n, m in prune(theta, masks, 0.6).items()} == {
            n: whole(m).tolist() for n, m in pruned.items()
        }


def _nan_in_one_part():
    theta = {**whole_weights(), "e": torch.tensor([1.0, 2.0, 3.0, float("nan")])}
    mesh, placements = layouts()[0]
    masks = {name: torch.ones_like(value, dtype=torch.uint8) for name, value in theta.items()}
    with pytest.raises(ValueError, match="NaN or infinite values in 'e'"):
        prune(spread(theta, mesh, placements), spread(masks, mesh, placements), 0.5)


def _on_each_rank():
    torch.set_num_threads(1)
    _prunes_as_one_process()
    _only_some_are_sharded()
    _nan_in_one_part()


def test_sharded_weights_are_pruned_and_signed_as_in_one_process_ties_and_errors_included():
    debug_launcher(_on_each_rank, num_processes=4)


def _parts_of_a_model_under_fsdp_and_tensor_parallel():
    """Two of its layers are tensor parallel, and lie on both dimensions of the mesh; the others lie on one."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 14), nn.ReLU(), nn.Linear(14, 7), nn.LayerNorm(7), nn.Linear(7, 3))
    entire = {name: p.detach().clone() for name, p in model.named_parameters()}
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    fully_shard(model, mesh=mesh["data"])
    weights = {name: p.detach() for name, p in model.named_parameters()}
    here = sum(local(weights[name]).numel() for name in counted(weights))
    assert int(total(torch.tensor(here), weights.values())) == sum(p.numel() for p in entire.values())
    for name, weight in weights.items():
        part = local(weight)
        assert torch.equal(entire[name].flatten()[positions(weight, torch.arange(part.numel()))], part.flatten())
        assert torch.equal(local(as_laid_out(entire[name], weight)), part)


def test_each_process_knows_which_part_of_a_weight_it_has():
    debug_launcher(_parts_of_a_model_under_fsdp_and_tensor_parallel, num_processes=4)
