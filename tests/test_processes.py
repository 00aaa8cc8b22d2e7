"""Two gloo processes: one search, the same on every rank."""

import json
from contextlib import suppress

import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration, debug_launcher
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object

from aws_lottery import (
    AWSPruner,
    SignedMask,
    SignedMaskConfig,
    TrainingConfig,
    evaluate,
    find_signed_mask,
    train,
)
from aws_lottery.data import Images
from aws_lottery.runs.output_folder import Run

pytestmark = pytest.mark.multiprocess


def _network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(12, 16), torch.nn.LayerNorm(16), torch.nn.ReLU(), torch.nn.Linear(16, 3)
    )


def _data(n=70):
    x = torch.randn(n, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    return Images(x, x.mean(dim=(2, 3)).argmax(1))


def _search(accelerator):
    model = _network()
    pruner = AWSPruner(model, SignedMaskConfig(rounds=3))
    config = TrainingConfig(epochs=2, batch_size=16, schedule="constant", momentum=0.9, max_grad_norm=1.0)
    alphas = []
    for stage in pruner.rounds():
        train(model, _data(), config, accelerator=accelerator, seed=stage.index)
        alphas.append(int(model.get_buffer("_aws_alpha_state")))
    return pruner.signed_mask(), alphas, evaluate(model, _data(), accelerator=accelerator, batch_size=16)


def _accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)  # what this process was forked from may have had its own
    return Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=True))


def _on_each_rank():
    torch.set_num_threads(1)
    accelerator = _accelerator()
    assert accelerator.num_processes == 2
    mask, alphas, accuracy = _search(accelerator)
    found = gather_object([({name: mask[name].tolist() for name in mask}, alphas, accuracy)])
    assert found[0] == found[1]
    accelerator.end_training()


@pytest.mark.filterwarnings("ignore")  # torch.distributed's own
def test_two_ranks_find_the_same_mask_with_the_same_alpha():
    debug_launcher(_on_each_rank, num_processes=2)


def _on_each_rank_like_one(expected):
    torch.set_num_threads(1)
    accelerator = _accelerator()
    mask, _, _ = _search(accelerator)
    signs = torch.cat([mask[name].flatten() for name in mask])
    assert (signs == torch.tensor(expected)).float().mean() > 0.99
    accelerator.end_training()


@pytest.mark.filterwarnings("ignore")
def test_two_ranks_find_the_mask_of_one_on_the_same_global_batch():
    mask, _, _ = _search(Accelerator(cpu=True))
    expected = torch.cat([mask[name].flatten() for name in mask]).tolist()
    debug_launcher(_on_each_rank_like_one, args=(expected,), num_processes=2)


class _Killed(Exception):
    pass


def _find_on_each_rank(folder, stop_after):
    """A search with a checkpoint every tenth step; where it is to stop, all ranks do, without saving."""
    torch.set_num_threads(1)
    accelerator, after_step = _accelerator(), Run.after_step

    def counted(run, training):
        after_step(run, training)
        if run.steps == stop_after:
            raise _Killed

    Run.after_step = counted
    config, training = SignedMaskConfig(rounds=2, warmup_epochs=2, epochs_per_round=2), TrainingConfig(batch_size=16)
    options = {"output_dir": folder, "accelerator": accelerator, "checkpoint_seconds": 0.0}
    with suppress(_Killed):
        find_signed_mask(_network(), _data(), config, training, **options)


@pytest.mark.filterwarnings("ignore")
def test_a_search_on_two_ranks_goes_on_to_the_same_mask(tmp_path):
    for folder, stops in (("whole", (0,)), ("cut", (13, 21, 0))):
        for stop_after in stops:
            debug_launcher(_find_on_each_rank, args=(str(tmp_path / folder), stop_after), num_processes=2)
    for name in ("round-01", "round-02"):
        assert SignedMask.from_pretrained(tmp_path / "cut" / name) == SignedMask.from_pretrained(
            tmp_path / "whole" / name
        )
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["stage"], line["remaining"], line["loss"]) for line in lines]
