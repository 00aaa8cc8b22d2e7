"""What find_signed_mask offers beside a plain search, on a model that FSDP2 shards over two gloo processes."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration, PartialState, debug_launcher
from accelerate.parallelism_config import ParallelismConfig
from accelerate.state import AcceleratorState
from sharding_on_cpus import let_accelerate_shard
from test_shards import STAGES, TRAINING, images, network, shard_
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.multiprocessing import ProcessRaisedException

from aws_lottery import AWSPruner, SignedMaskConfig, find_signed_mask
from aws_lottery.mask_file.sparse_weights import load_weights

pytestmark = [pytest.mark.multiprocess, pytest.mark.filterwarnings("ignore")]  # torch.distributed's own warnings


def accelerator_with(sharded, **options):
    precision = options.pop("mixed_precision", None)
    AcceleratorState._reset_state(reset_partial_state=True)  # what this process was forked from may have had its own
    config = DataLoaderConfiguration(split_batches=True)
    accelerator = Accelerator(cpu=True, mixed_precision=precision, dataloader_config=config)
    if sharded:
        let_accelerate_shard(accelerator, **options)
    return accelerator


def search(folder, accelerator, model=None, rounds=2, method="aws", **options):
    config = SignedMaskConfig(method=method, **{**STAGES, "rounds": rounds})
    model = network() if model is None else model
    return find_signed_mask(model, images(), config, TRAINING, output_dir=folder, accelerator=accelerator, **options)


def from_a_mask(folder, sharded):
    accelerator = accelerator_with(sharded)
    first = search(f"{folder}/first", accelerator)
    masks = [search(f"{folder}/a", accelerator, method="wr", mask=first)]
    options = {"mask": f"{folder}/first/round-02", "psi_init": network().state_dict()}
    masks.append(search(f"{folder}/b", accelerator, **options))
    for mask in masks:
        assert all(not mask[name][first[name] == 0].any() for name in first.prunable)
    return masks


def with_more_rounds(folder, sharded):
    accelerator = accelerator_with(sharded)
    search(f"{folder}/a", accelerator)
    longer, at_once = (search(f"{folder}/{name}", accelerator, rounds=4) for name in "ab")
    assert longer == at_once
    return [longer]


def with_its_solution(folder, sharded):
    accelerator = accelerator_with(sharded)
    masks = [search(f"{folder}/{m}", accelerator, method=m, solution_epochs=2) for m in ("aws", "imp")]
    for method, mask in zip(("aws", "imp"), masks, strict=True):
        for name, weight in load_weights(f"{folder}/{method}/solution", mask).items():
            torch.save(weight, f"{folder}/{method}-{name}.pt")
    return masks


def under_activation_checkpointing(folder, sharded):
    return [search(folder, accelerator_with(sharded, **({"activation_checkpointing": True} if sharded else {})))]


def in_bf16_if_the_caller_shards(folder, sharded):
    model, precise = network(), set()
    model[1].register_forward_hook(lambda layer, inputs, output: precise.add(output.dtype))
    accelerator = accelerator_with(False, mixed_precision="bf16")
    if sharded:
        shard_(model)
    mask = search(folder, accelerator, model)
    assert precise == {torch.bfloat16}
    return [mask]


def measured_with_weights_in_the_outermost_group(folder, sharded):
    """The group whose whole tensors FSDP2 leaves in the model after each measurement; a prune comes next."""
    accelerator = accelerator_with(sharded, **({"min_num_params": 200} if sharded else {}))
    return [search(folder, accelerator, test_data=images())]


def with_weights_on_the_first_process_alone(folder, sharded):
    accelerator = accelerator_with(sharded, **({"cpu_ram_efficient_loading": True} if sharded else {}))
    model = network()
    return [search(folder, accelerator, model if accelerator.is_main_process else model.to("meta"))]


def offloaded_to_memory_that_is_not_pinned(folder, sharded):
    options = {"cpu_offload": CPUOffloadPolicy(pin_memory=False)}  # a pinned one needs a GPU
    return [search(folder, accelerator_with(sharded, **(options if sharded else {})))]


def in_bf16(folder, sharded):
    accelerator = accelerator_with(sharded, mixed_precision="bf16")
    if sharded:
        accelerator.state.fsdp_plugin.set_mixed_precision("bf16")  # as accelerate does on GPUs
    return [search(folder, accelerator)]


def on_accelerates_tensor_parallel_mesh(folder, sharded):
    if not sharded:
        return [search(folder, accelerator_with(False))]
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.MonkeyPatch.context() as patch:  # it refuses CPUs
        patch.setattr(ParallelismConfig, "_validate_accelerator", lambda config, accelerator: None)
        accelerator = Accelerator(cpu=True, parallelism_config=ParallelismConfig(tp_size=2))
    model = network()
    plan = {"4": ColwiseParallel(output_layouts=Replicate()), "7": RowwiseParallel(input_layouts=Replicate())}
    parallelize_module(model, accelerator.torch_device_mesh["tp"], plan)
    mask = search(folder, accelerator, model)
    lines = [json.loads(line) for line in Path(f"{folder}/metrics.jsonl").read_text().splitlines()]
    for line in lines:  # the 64 images of an epoch, which both processes see
        assert line["images_per_second"] * line["seconds"] == pytest.approx(64, rel=0.4)  # seconds have two digits
    return [mask]


OFFERS = (
    from_a_mask,
    with_more_rounds,
    with_its_solution,
    under_activation_checkpointing,
    in_bf16_if_the_caller_shards,
    measured_with_weights_in_the_outermost_group,
    with_weights_on_the_first_process_alone,
    offloaded_to_memory_that_is_not_pinned,
    in_bf16,
    on_accelerates_tensor_parallel_mesh,
)


def run(folder, sharded):
    torch.set_num_threads(1)
    found = {}
    for offer in OFFERS:
        masks = offer(f"{folder}/{offer.__name__}", sharded)
        found[offer.__name__] = [{name: value.tolist() for name, value in mask.items()} for mask in masks]
    if PartialState().is_main_process:
        torch.save(found, f"{folder}/found.pt")
    if sharded:
        with pytest.raises(RuntimeError, match=r"this Sequential can't be copied.*sparse_state"):
            AWSPruner(sharded_network()).sparse_copy()


def sharded_network():
    model = network()
    shard_(model)
    return model


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Of one process and a whole model, and of two and a sharded one."""
    folders = {processes: tmp_path_factory.mktemp(str(processes)) for processes in (1, 2)}
    for processes, folder in folders.items():
        debug_launcher(run, args=(str(folder), processes > 1), num_processes=processes)
    return folders


@pytest.mark.parametrize("offer", [offer.__name__ for offer in OFFERS])
def test_a_sharded_search_finds_what_one_process_finds(found, offer):
    one, two = (torch.load(folder / "found.pt")[offer] for folder in found.values())
    assert one == two


def test_the_solution_of_a_sharded_search_is_that_of_one_process(found):
    one, two = (sorted((folder / "with_its_solution").glob("*.pt")) for folder in found.values())
    assert [path.name for path in one] == [path.name for path in two]
    assert len(one) == 2 * 10
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(torch.load(a), torch.load(b))


def _gem_miner(folder):
    torch.set_num_threads(1)
    search(folder, accelerator_with(False), sharded_network(), method="gm")


def test_gem_miner_refuses_a_sharded_model(tmp_path):
    with pytest.raises(ProcessRaisedException, match=r"Gem-Miner .* takes no sharded model"):
        debug_launcher(_gem_miner, args=(str(tmp_path),), num_processes=2)
