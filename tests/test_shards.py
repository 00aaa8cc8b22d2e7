"""Whole searches of a model that FSDP2 shards over gloo processes, against the search of one process."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration, debug_launcher
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from sharding_on_cpus import let_accelerate_shard
from torch import nn
from torch.multiprocessing import ProcessExitedException

from aws_lottery import AWSPruner, SignedMask, SignedMaskConfig, TrainingConfig, find_signed_mask
from aws_lottery.data import Images
from aws_lottery.mask_file.sparse_weights import load_weights, solution_weights
from aws_lottery.runs.checkpoint import CheckpointError
from aws_lottery.runs.output_folder import Run
from aws_lottery.runs.round_folder import save_round

pytestmark = [pytest.mark.multiprocess, pytest.mark.filterwarnings("ignore")]  # torch.distributed's own warnings

STAGES = {"rounds": 2, "warmup_epochs": 1, "epochs_per_round": 1}
TRAINING = TrainingConfig(batch_size=16, learning_rate=0.05, max_grad_norm=1.0, ema_decay=0.5)


def network() -> nn.Module:
    torch.manual_seed(0)
    hidden = [nn.Linear(17, 9), nn.LayerNorm(9), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 17), nn.LayerNorm(17), nn.ReLU(), *hidden, nn.Linear(9, 3))


def images() -> Images:
    x = torch.randn(70, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    return Images(x, x.mean(dim=(2, 3)).argmax(1))


def shard_(model: nn.Module) -> None:
    from torch.distributed.fsdp import fully_shard

    for layer in filter(lambda module: isinstance(module, nn.Linear), model):
        fully_shard(layer)
    fully_shard(model)


def search(folder: str, method: str, sharded: bool | str, kill_at: int | None = None) -> None:
    """On each process; the last one kills itself after `kill_at` optimizer steps."""
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)  # what this process was forked from may have had its own
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=True))
    model, data, after_step = network(), images(), Run.after_step
    if sharded == "by accelerate":
        let_accelerate_shard(accelerator)
    elif sharded:
        shard_(model)

    def killed(run: Run, training) -> None:
        run.save(training)
        after_step(run, training)
        if run.steps == kill_at and accelerator.is_last_process:
            os.kill(os.getpid(), signal.SIGKILL)

    if kill_at is not None:
        Run.after_step = killed
    config = SignedMaskConfig(method=method, **STAGES)
    options = {"output_dir": folder, "accelerator": accelerator, "test_data": data}
    mask = find_signed_mask(model, data, config, TRAINING, **options)
    assert mask.remaining == pytest.approx(0.64, abs=0.01)  # on every process
    accelerator.end_training()


def left_by(folder: Path) -> tuple[dict, dict, list]:
    """Signs, weights and accuracies."""
    mask = SignedMask.from_pretrained(folder / "round-02")
    weights = {**load_weights(folder / "round-02", mask), **solution_weights(folder / "round-02", mask)}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert mask.config is not None
    assert mask.config.architecture == "Sequential"  # not FSDPSequential
    return {name: mask[name].tolist() for name in mask}, weights, [line["accuracy"] for line in lines]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The search of one process, of a whole model."""
    folder = tmp_path_factory.mktemp("alone")
    debug_launcher(search, args=(str(folder), "aws", False), num_processes=1)
    return folder


def assert_alike(folder: Path, other: Path) -> None:
    signs, weights, accuracies = left_by(folder)
    expected_signs, expected_weights, expected_accuracies = left_by(other)
    assert signs == expected_signs
    assert accuracies == expected_accuracies
    assert weights.keys() == expected_weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected_weights[name])


@pytest.mark.parametrize("sharded", [True, pytest.param("by accelerate", marks=pytest.mark.slow)])
def test_a_sharded_search_finds_what_one_process_finds(sharded, alone, tmp_path):
    debug_launcher(search, args=(str(tmp_path), "aws", sharded), num_processes=2)
    assert_alike(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["wr", "imp", "lrr"])
def test_so_do_the_other_methods(method, tmp_path):
    debug_launcher(search, args=(str(tmp_path / "alone"), method, False), num_processes=1)
    debug_launcher(search, args=(str(tmp_path / "sharded"), method, True), num_processes=2)
    assert_alike(tmp_path / "sharded", tmp_path / "alone")


def test_a_sharded_search_killed_on_four_processes_goes_on_with_two(alone, tmp_path):
    with pytest.raises(ProcessExitedException):
        debug_launcher(search, args=(str(tmp_path), "aws", True, 6), num_processes=4)
    assert len([*tmp_path.glob("shards-*")]) == 2  # of the last two checkpoints
    debug_launcher(search, args=(str(tmp_path), "aws", True), num_processes=2)
    assert_alike(tmp_path, alone)
    assert len([*tmp_path.glob("shards-*")]) == 1  # of the checkpoint that more rounds would go on from
    debug_launcher(search, args=(str(tmp_path), "aws", True), num_processes=2)  # reads what is there


def can_not_write_weights(folder: str) -> None:
    """The first process fails at the first tensor of several that all gather."""
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator, model = Accelerator(cpu=True), network()
    shard_(model)
    pruner = AWSPruner(model, SignedMaskConfig(**STAGES))
    of_another = SignedMask({name: value.flatten() for name, value in pruner.signed_mask().items()})
    with pytest.raises(IndexError, match="The shape of the mask"):
        save_round(Path(folder) / "round", of_another, pruner, accelerator, about={})
    assert gather_object([accelerator.process_index]) == [0, 1]  # what was gathered before is out of the way


def test_an_error_while_weights_are_gathered_is_raised_on_all_processes(tmp_path):
    debug_launcher(can_not_write_weights, args=(str(tmp_path),), num_processes=2)


def measured(folder: str, sharded: bool) -> None:
    """A search without re-estimation, of a network with BatchNorm; keeps what each process is left with."""
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=True))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 17), nn.BatchNorm1d(17), nn.ReLU(), nn.Linear(17, 3))
    if sharded:
        shard_(model)
    config = SignedMaskConfig(protocol="released-code", **STAGES)
    find_signed_mask(model, images(), config, TRAINING, output_dir=folder, accelerator=accelerator, test_data=images())
    with torch.no_grad():
        output = model.eval()(images().tensors[0])
    torch.save({"output": output, **dict(model.named_buffers())}, f"{folder}/left-{accelerator.process_index}.pt")
    accelerator.end_training()


def test_batch_norms_statistics_are_those_of_ddp_on_all_processes(tmp_path):
    for name in ("ddp", "sharded"):
        debug_launcher(measured, args=(str(tmp_path / name), name == "sharded"), num_processes=2)
    first, second, ddp, other = (
        torch.load(tmp_path / name / f"left-{rank}.pt") for name in ("sharded", "ddp") for rank in (0, 1)
    )
    assert first.keys() == {"output", "2.running_mean", "2.running_var", "2.num_batches_tracked"}
    for name, value in first.items():
        assert torch.equal(value, second[name])
        assert torch.equal(ddp[name], other[name])
        torch.testing.assert_close(value, ddp[name])
    assert_alike(tmp_path / "sharded", tmp_path / "ddp")  # the accuracies, and the statistics in the folders


def _refuses_a_damaged_shard(folder: str):
    with pytest.raises(CheckpointError, match=r"distcp is damaged.*checkpoint-previous.pt is good"):
        search(folder, "aws", True)


def test_a_damaged_shard_is_refused_on_all_processes_with_the_good_checkpoint_before_it(tmp_path):
    with pytest.raises(ProcessExitedException):
        debug_launcher(search, args=(str(tmp_path), "aws", True, 6), num_processes=2)
    named = {path: path.read_bytes() for path in tmp_path.glob("checkpoint*.pt")}
    for shards in tmp_path.glob("shards-*"):
        if shards.name.encode() in named[tmp_path / "checkpoint.pt"]:
            file = min(shards.glob("*.distcp"))
            file.write_bytes(file.read_bytes()[:-1] + b"?")
    debug_launcher(_refuses_a_damaged_shard, args=(str(tmp_path),), num_processes=2)
