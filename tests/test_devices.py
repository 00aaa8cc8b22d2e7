"""What a CUDA device would refuse, on a machine without one (two_devices.py): tensors of the CPU among those there."""

import copy

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from two_devices import THERE, TwoDevices

from aws_lottery import (
    AWSPruner,
    Hold,
    SignedMask,
    SignedMaskConfig,
    TrainingConfig,
    evaluate,
    pruner_for,
    train,
    train_many,
)
from aws_lottery.data import Augmentation, Images
from aws_lottery.data.splits import DecodedSplit
from aws_lottery.models import fresh_network
from aws_lottery.models.perceptron import fresh_perceptron
from aws_lottery.parameters import norm_interpolation
from aws_lottery.runs.output_folder import Run
from aws_lottery.runs.search import find_signed_mask

TRAINING = TrainingConfig(batch_size=16, ema_decay=0.5, learning_rate=0.02)


@pytest.fixture
def there():
    with TwoDevices() as devices:
        yield devices


@pytest.fixture
def accelerator():
    """On the other device."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    AcceleratorState._shared_state["device"] = PartialState._shared_state["device"] = THERE
    yield accelerator
    AcceleratorState._reset_state(reset_partial_state=True)


def images() -> Images:
    x = torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return Images(x, x.mean(dim=(2, 3)).argmax(1))


def step_(model: nn.Module) -> None:
    model(torch.randn(4, 3, 6, 6, device="cuda")).square().mean().backward()
    torch.optim.SGD(model.parameters(), 0.01, momentum=0.9).step()
    model.zero_grad()


def test_the_device_of_these_tests_refuses_what_is_not_on_it(there, convnet):
    convnet.to("cuda")
    assert convnet[0].weight.device == convnet[1].running_mean.device == THERE
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        convnet(torch.randn(1, 3, 6, 6))
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        convnet(torch.randn(1, 3, 6, 6, device="cuda")).detach().numpy()


@pytest.mark.parametrize("protocol", ["paper", "released-code"])
@pytest.mark.parametrize("method", ["aws", "wr", "gm"])
def test_a_search_goes_where_its_model_is_moved(there, convnet, method, protocol):
    pruner = pruner_for(convnet, SignedMaskConfig(method=method, rounds=2, protocol=protocol))
    convnet.to("cuda")
    assert pruner.signed_mask().remaining == 1 or method == "gm"
    for _ in pruner.rounds():
        step_(convnet)
    assert {mask.device for mask in pruner.masks.values()} == {THERE}
    assert pruner.masks["0.weight"] is pruner.masks["0.weight"]  # moved once, not for every use
    assert pruner.remaining == pytest.approx(0.64, abs=0.01)


def test_rounds_without_a_training_prune_a_model_that_was_moved(there, convnet):
    pruner = AWSPruner(convnet, SignedMaskConfig(rounds=2))
    convnet.to("cuda")
    assert len([*pruner.rounds()]) == 3
    assert pruner.signed_mask().remaining == pytest.approx(0.64, abs=0.01)


@pytest.mark.parametrize("protocol", ["paper", "released-code"])
def test_a_resumed_search_keeps_its_masks_there_though_what_it_rewinds_to_is_here(there, make_convnet, protocol):
    config = SignedMaskConfig(method="wr", rounds=3, protocol=protocol)
    first, second = make_convnet().to("cuda"), make_convnet().to("cuda")
    pruner = AWSPruner(first, config)
    stages = pruner.rounds()
    next(stages), step_(first), next(stages)
    state = tree_map(lambda value: value.cpu() if isinstance(value, Tensor) else value, pruner.state_dict())
    resumed = AWSPruner(second, config)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(state)
    for _ in resumed.rounds(on_mask=lambda index, mask: resumed.rewound_state()):
        step_(second)
    assert resumed.signed_mask().remaining == pytest.approx(0.512, abs=0.01)


def test_an_average_on_another_device_is_masked_and_takes_no_mask_with_it(there, convnet):
    average = copy.deepcopy(convnet)
    hold = Hold(convnet.to("cuda"), {"0.weight": torch.zeros(8, 3, 3, 3, dtype=torch.bool)})
    hold.zero_(average)
    assert not average[0].weight.count_nonzero()
    assert hold.masks["0.weight"].device == THERE


def test_networks_that_were_held_here_are_joined_there(there, accelerator):
    data = Images(torch.randn(32, 1, 8, 8), torch.arange(32) % 10)
    networks = [fresh_perceptron(seed, depth=2, width=8) for seed in range(3)]
    Hold(networks[1], {"1.weight": torch.zeros(8, 64, dtype=torch.bool)})
    train_many(networks, data, TrainingConfig(epochs=1, batch_size=16), accelerator=accelerator, seeds=range(3))
    assert networks[1][1].weight.device == THERE
    assert not networks[1][1].weight.count_nonzero()


def test_a_compiled_graph_has_no_state_of_alpha_to_move(there, convnet):
    AWSPruner(convnet.to("cuda"))
    assert {value.device for value in norm_interpolation.state(convnet).values()} == {THERE}


def test_a_search_there_that_is_stopped_goes_on_to_the_signs_of_one_here(
    there, accelerator, make_convnet, tmp_path, monkeypatch
):
    class Stop(Exception):
        pass

    def stopping(run: Run, training: object) -> None:
        after_step(run, training)  # type: ignore[arg-type]
        if run.steps == 5:
            raise Stop

    def search(folder: str, accelerator: Accelerator) -> SignedMask:
        torch.manual_seed(3)
        options = {"output_dir": tmp_path / folder, "checkpoint_seconds": 0.0, "test_data": images()}
        config = SignedMaskConfig(method="imp", rounds=2, warmup_epochs=1, epochs_per_round=1)
        return find_signed_mask(make_convnet(), images(), config, TRAINING, accelerator=accelerator, **options)

    after_step = Run.after_step
    with monkeypatch.context() as patch:
        patch.setattr(Run, "after_step", stopping)
        with pytest.raises(Stop):
            search("there", accelerator)
    found = search("there", accelerator)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert found == search("here", Accelerator(cpu=True))


@pytest.mark.parametrize("scale", [None, (0.5, 1.0)])
def test_a_step_on_data_that_is_there_waits_for_the_device_nowhere(there, accelerator, convnet, scale):
    def count(training: object) -> None:
        waits.append([*there.waits])
        there.waits.clear()

    pixels, labels = torch.randint(256, (32, 3, 6, 6), dtype=torch.uint8), torch.arange(32) % 3
    augmentation = Augmentation(size=6, scale=scale)
    colors = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    split = DecodedSplit(split="train", labels=labels, images=pixels, augmentation=augmentation, **colors)
    stages = AWSPruner(convnet.to("cuda"), SignedMaskConfig(rounds=1)).rounds()
    next(stages), next(stages)
    for data in (split.to("cuda"), images().to("cuda")):
        waits: list[list[str]] = []
        train(convnet, data, TrainingConfig(epochs=1, batch_size=8), accelerator=accelerator, seed=0, on_step=count)
        assert waits[1:3] == [[], []]  # before the first step the model is looked at, after the last one the loss


def test_an_evaluation_waits_for_the_device_once(there, accelerator, convnet):
    convnet, data = convnet.to("cuda"), images().to("cuda")
    there.waits.clear()
    in_four_batches = evaluate(convnet, data, accelerator=accelerator, batch_size=8)
    assert there.waits == ["cpu"]
    assert in_four_batches == evaluate(convnet, data, accelerator=accelerator, batch_size=32) > 0


def test_two_devices_bring_no_warning_of_torch(monkeypatch):
    """torch warns of every block that keeps random states aside where there are several GPUs."""
    for module in (torch.cuda, torch.accelerator):
        monkeypatch.setattr(module, "device_count", lambda: 2)
    states = {0: torch.tensor(1), 1: torch.tensor(2)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", states.__getitem__)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: None)
    assert isinstance(fresh_network("resnet8", 10, seed=0), nn.Module)
