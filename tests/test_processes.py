"""Two gloo processes: one search, the same on every rank."""

import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration, debug_launcher
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object

from aws_lottery import AWSPruner, SignedMaskConfig, TrainingConfig, evaluate, train
from aws_lottery.data import Images

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
