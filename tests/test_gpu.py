"""What holds on a CUDA device: the same signs twice and after a resume, exact zeros, a new alpha in every graph."""

import copy

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from aws_lottery import AWSPruner, SignedMaskConfig, TrainingConfig, evaluate, find_signed_mask, prune, train
from aws_lottery.data import Images, batches
from aws_lottery.data.augment import Augmentation
from aws_lottery.data.splits import DecodedSplit
from aws_lottery.models import create_model
from aws_lottery.parameters import norm_interpolation
from aws_lottery.runs.output_folder import Run

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
CONFIG = SignedMaskConfig(rounds=2, warmup_epochs=1, epochs_per_round=2)
TRAINING = TrainingConfig(batch_size=8, max_grad_norm=1.0)


@pytest.fixture(autouse=True)
def _deterministic(monkeypatch):
    """As a user would who wants the same signs twice: cuDNN may otherwise add up in another order."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)


@pytest.fixture
def accelerator_with():
    """Makes accelerators on the device, with no trace of those that other tests made on the CPU."""

    def make(**options) -> Accelerator:
        AcceleratorState._reset_state(reset_partial_state=True)
        return Accelerator(**options)

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),  # takes from the device's random state
        nn.Conv2d(8, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 3),
    )


def data() -> Images:
    x = torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return Images(x, x.mean(dim=(2, 3)).argmax(1))


def search(folder, accelerator, training=TRAINING):
    model = network()
    torch.manual_seed(5)
    options = {"output_dir": folder, "accelerator": accelerator, "checkpoint_seconds": 0.0, "test_data": data()}
    mask = find_signed_mask(model, data(), CONFIG, training, **options)
    assert next(model.parameters()).device.type == DEVICE
    return {name: mask[name].tolist() for name in mask}


@pytest.mark.parametrize("ema_decay", [None, 0.8])
def test_a_search_finds_the_same_signs_twice(tmp_path, accelerator_with, ema_decay):
    training = TrainingConfig(batch_size=8, ema_decay=ema_decay)
    first, second = (search(tmp_path / name, accelerator_with(), training) for name in ("first", "second"))
    assert first == second


@pytest.mark.parametrize("stop_after", [2, 4, 7])  # within a stage, at its end, in the next one
def test_a_search_that_was_stopped_goes_on_to_the_same_signs(tmp_path, monkeypatch, accelerator_with, stop_after):
    class Stop(Exception):
        pass

    def stopping(run, training):
        after_step(run, training)
        if run.steps == stop_after:
            raise Stop

    expected, after_step = search(tmp_path / "whole", accelerator_with()), Run.after_step
    with monkeypatch.context() as patch:
        patch.setattr(Run, "after_step", stopping)
        with pytest.raises(Stop):
            search(tmp_path / "cut", accelerator_with())
    assert search(tmp_path / "cut", accelerator_with()) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_device_prunes_what_the_cpu_prunes(dtype, layout):
    """Ties included: in 16 bits there are many."""
    theta = {"a": torch.randn(40, 30, 3, 3).to(dtype).to(memory_format=layout), "b": torch.randn(500, 70).to(dtype)}
    mask = {name: torch.ones_like(value, dtype=torch.uint8) for name, value in theta.items()}
    there = {name: value.to(DEVICE) for name, value in theta.items()}
    mask_there = {name: value.to(DEVICE) for name, value in mask.items()}
    for _ in range(3):
        mask, mask_there = prune(theta, mask, 0.2), prune(there, mask_there, 0.2)
        for name, value in mask_there.items():
            assert value.device.type == DEVICE
            assert torch.equal(value.cpu(), mask[name])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_pruned_weights_stay_0_and_all_stay_finite_in_any_precision(accelerator_with, precision, channels_last):
    accelerator = accelerator_with(mixed_precision=precision)
    assert (accelerator.scaler is not None) == (precision == "fp16")
    model = network().to(DEVICE)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    pruner = AWSPruner(model, SignedMaskConfig(rounds=2))
    config = TrainingConfig(epochs=3, batch_size=4, schedule="constant", learning_rate=0.05, momentum=0.9)

    def check(training):
        for name, mask in pruner.masks.items():
            assert not model.get_parameter(name)[mask == 0].count_nonzero()
        assert all(parameter.isfinite().all() for parameter in model.parameters())

    losses = []
    for stage in pruner.rounds():
        losses.append(train(model, data(), config, accelerator=accelerator, seed=stage.index, on_step=check))
    assert losses[-1] < losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert pruner.remaining == pytest.approx(0.64, abs=2e-3)
    if channels_last:
        weight, mask = model.get_parameter("4.weight"), pruner.masks["4.weight"]
        assert weight.stride() == mask.stride()
        assert weight.is_contiguous(memory_format=torch.channels_last)


def perceptron() -> nn.Module:
    """No convolutions, whose TF32 would differ between eager and compiled."""
    torch.manual_seed(4)
    layers = [nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 3)]
    return nn.Sequential(*layers).to(DEVICE)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])  # the second replays CUDA graphs
def test_a_compiled_network_draws_a_new_alpha_every_step(mode):
    torch._dynamo.reset()
    model = perceptron()
    pruner = AWSPruner(model, SignedMaskConfig(rounds=1))
    stages = pruner.rounds()
    next(stages), next(stages)
    with torch.no_grad():
        for layer in (model[1], model[4]):
            layer.weight.uniform_(2, 4)
            layer.bias.normal_()
    twin, compiled = copy.deepcopy(model), torch.compile(model, mode=mode)
    x, y = torch.randn(16, 12, device=DEVICE), torch.randint(3, (16,), device=DEVICE)
    state, losses = int(norm_interpolation.state(model)["_aws_alpha_state"]), []
    for _ in range(8):  # a graph is recorded in the second or third
        pair = []
        for called, owner in ((compiled, model), (twin, twin)):
            loss = F.cross_entropy(called(x), y)
            loss.backward()
            pair.append((loss.item(), owner[0].weight.grad.clone()))
            owner.zero_grad()
        state = state * 48271 % (2**31 - 1)
        assert int(norm_interpolation.state(model)["_aws_alpha_state"]) == state
        torch.testing.assert_close(pair[0], pair[1], rtol=1e-3, atol=1e-5)
        losses.append(pair[0][0])
    assert len(set(losses)) == 8
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_search_in_bf16_and_channels_last_learns(accelerator_with):
    """All that a GPU is used with, at once, with the data on the device."""
    torch._dynamo.reset()
    accelerator = accelerator_with(mixed_precision="bf16", dynamo_backend="inductor")
    labels = torch.arange(64) % 3
    images = (torch.rand(64, 3, 12, 12) * 100 + 100 * F.one_hot(labels)[:, :, None, None]).to(torch.uint8)
    split = split_of(images, labels).to(accelerator.device)
    model = create_model("resnet20", 3, image_size=12).to(DEVICE, memory_format=torch.channels_last)
    pruner = AWSPruner(model, SignedMaskConfig(rounds=1))
    config = TrainingConfig(epochs=4, batch_size=16, schedule="constant", learning_rate=0.02)
    for stage in pruner.rounds():
        loss = train(model, split, config, accelerator=accelerator, seed=stage.index)
    assert loss < 0.9
    assert evaluate(model, split, accelerator=accelerator) >= 0
    for name, mask in pruner.masks.items():
        assert not model.get_parameter(name)[mask == 0].count_nonzero()
    torch._dynamo.reset()


def split_of(images: torch.Tensor, labels: torch.Tensor) -> DecodedSplit:
    augmentation = Augmentation(size=images.shape[2], padding=2)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    return DecodedSplit(split="train", labels=labels, augmentation=augmentation, mean=mean, std=std, images=images)


def test_batches_on_the_device_are_those_on_the_cpu():
    images, labels = torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8), torch.arange(20) % 3
    here, there = (batches(split_of(images, labels).to(device), 5, seed=1) for device in ("cpu", DEVICE))
    for (x, y), (x_there, y_there) in zip(here, there, strict=True):
        assert x_there.device.type == y_there.device.type == DEVICE
        torch.testing.assert_close(x_there.cpu(), x)
        assert torch.equal(y_there.cpu(), y)
