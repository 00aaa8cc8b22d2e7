"""Trainings that share their steps are the same trainings; and comparisons that are made of them."""

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from filelock import FileLock
from torch import nn

from aws_lottery import SignedMask, TrainingConfig, train, train_many, verify
from aws_lottery.data import ImageData, Images
from aws_lottery.experiments.jobs import Job
from aws_lottery.experiments.results import Row
from aws_lottery.experiments.trainings import Trainings
from aws_lottery.joined import joined, separate_
from aws_lottery.parameters.hold import held_by
from aws_lottery.runs.lock import Busy
from aws_lottery.train_many import not_joined

CONFIG = TrainingConfig(epochs=3, batch_size=8, learning_rate=0.02, schedule="cosine")


def perceptron(seed: int) -> nn.Sequential:
    """Images (1, 2, 1) -> 3 logits."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(2, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def mask_of(layer: int) -> SignedMask:
    """The signs of a network whose layer lacks its first outputs."""
    model = perceptron(9)
    with torch.no_grad():
        model[layer].weight[:2] = 0
    return SignedMask(SignedMask.from_model(model), prunable=(f"{layer}.weight",))


def with_masks() -> list[nn.Module]:
    """Three networks in float64: two are held to masks, in other layers, the last is dense."""
    models = [perceptron(seed).double() for seed in range(3)]
    for model, layer in zip(models, (1, 4), strict=False):
        mask_of(layer).apply_(model)
        mask_of(layer).held(model)
    return models


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture
def data() -> Images:
    x = torch.randn(30, 1, 2, 1, dtype=torch.float64)
    return Images(x, (x[:, 0, 0, 0] > 0).long() + (x[:, 0, 1, 0] > 0))


def test_a_tensor_of_joined_networks_has_theirs_one_after_the_other():
    whole = joined([perceptron(0), perceptron(1)])
    assert whole.get_parameter("1.weight").tolist() == [perceptron(s)[1].weight.tolist() for s in (0, 1)]
    assert whole.get_parameter("2.weight").shape == (12,)


def test_joined_networks_give_the_logits_of_each_for_its_own_images():
    networks = [perceptron(seed).eval() for seed in range(3)]
    x = torch.randn(5, 3, 2, 1)  # (batch, networks * channels, height, width)
    logits = joined(networks).eval()(x).view(3, 3, 5)  # (networks, classes, batch)
    for index, network in enumerate(networks):
        torch.testing.assert_close(logits[index].T, network(x[:, index : index + 1]))


def test_networks_take_their_own_part_back():
    networks = [perceptron(0), perceptron(1)]
    whole = joined(networks)
    with torch.no_grad():
        whole.get_parameter("2.weight").copy_(torch.arange(12.0))
    separate_(whole, networks)
    assert networks[1][2].weight.tolist() == [6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("partial", [False, True])
def test_networks_that_train_at_once_end_where_each_ends_by_itself(data, accelerator, optimizer, partial):
    config = replace(CONFIG, optimizer=optimizer)
    together, alone = with_masks(), with_masks()
    assert not_joined(together, data, config, accelerator) is None
    losses = train_many(together, data, config, accelerator=accelerator, seeds=(4, 5, 6), partial_batches=partial)
    for index, model in enumerate(alone):
        loss = train(model, data, config, accelerator=accelerator, seed=4 + index, partial_batches=partial)
        assert losses[index] == pytest.approx(loss, abs=1e-6)  # which is summed up in float32
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(together[index].state_dict()[name], tensor, rtol=0, atol=1e-10)
        assert not torch.equal(model[1].weight, perceptron(index).double()[1].weight)


def test_each_network_stays_in_its_own_mask_and_is_held_afterwards(data, accelerator):
    models = with_masks()
    models[0][1].weight.grad = torch.ones_like(models[0][1].weight)  # left by a step of before
    train_many(models, data, CONFIG, accelerator=accelerator, seeds=range(3))
    assert [model[1].weight[:2].tolist() == [[0, 0]] * 2 for model in models] == [True, False, False]
    assert [model[4].weight[:2].tolist() == [[0] * 6] * 2 for model in models] == [False, True, False]
    assert [held_by(model) is not None for model in models] == [True, True, False]
    assert all(parameter.grad is None for model in models for parameter in model.parameters())


def test_after_a_loss_that_is_not_finite_networks_are_as_they_were(data, accelerator):
    models = [perceptron(seed).double() for seed in range(2)]
    before = copy.deepcopy(models[0].state_dict())
    config = replace(CONFIG, learning_rate=1e300)
    with pytest.raises(FloatingPointError, match="not finite in epoch 1 of 3"):
        train_many(models, data, config, accelerator=accelerator, seeds=range(2))
    torch.testing.assert_close(models[0].state_dict(), before, rtol=0, atol=0)


def _convolution(seed: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, (2, 1)), nn.Flatten())


def _hooked(seed: int) -> nn.Module:
    model = perceptron(seed)
    model[1].register_forward_hook(lambda module, args, output: None)
    return model


def _frozen(seed: int) -> nn.Module:
    model = perceptron(seed)
    model[1].weight.requires_grad_(False)
    return model


def _layer_twice(seed: int) -> nn.Module:
    layer = nn.Linear(2, 2)
    return nn.Sequential(nn.Flatten(), layer, layer, nn.Linear(2, 3))


def _other_momentum(seed: int) -> nn.Module:
    model = perceptron(seed)
    model[2].momentum = 0.1 + seed
    return model


def _with(change: Callable[[nn.Sequential], object]) -> Callable[[int], nn.Module]:
    def make(seed: int) -> nn.Module:
        model = perceptron(seed)
        change(model)
        return model

    return make


def _twice(gradients):
    return tuple(2 * gradient for gradient in gradients)


class Backwards(nn.Sequential):
    """With a forward of its own."""

    def forward(self, x):
        return super().forward(-x)


LAST, MODEL = nn.Linear(3, 3), perceptron(1)


def _tied(seed: int) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 3))
    model[2].weight = model[1].weight
    return model


@pytest.mark.parametrize(
    ("make", "options", "reason"),
    [
        (_convolution, {}, "no perceptrons"),
        (_hooked, {}, "no perceptrons"),
        (_frozen, {}, "no perceptrons"),
        (perceptron, {"max_grad_norm": 1.0}, "gradients are clipped"),
        (perceptron, {"ema_decay": 0.9}, "weights are averaged"),
        (_layer_twice, {}, "no perceptrons"),
        (lambda seed: perceptron(0)[: 5 - seed], {}, "not of one architecture"),
        (_other_momentum, {}, "not of one architecture"),
        (_with(lambda model: model.register_buffer("places", torch.arange(3))), {}, "no perceptrons"),
        (_with(lambda model: model[1].register_parameter("scale", nn.Parameter(torch.ones(3)))), {}, "no perceptrons"),
        (_with(lambda model: model[4].weight.register_hook(lambda gradient: 2 * gradient)), {}, "no perceptrons"),
        (_with(lambda model: model[4].register_full_backward_pre_hook(lambda *g: _twice(g[1]))), {}, "no perceptrons"),
        (lambda seed: nn.Sequential(nn.Flatten()), {}, "no perceptrons"),
        (_tied, {}, "they share tensors"),
        (lambda seed: MODEL, {}, "they share tensors"),
        (lambda seed: perceptron(0).append(LAST), {}, "they share tensors"),
        (_with(lambda model: setattr(model[2], "momentum", None)), {}, "no perceptrons"),
        (lambda seed: _hooked(0) if seed else perceptron(0), {}, "no perceptrons"),  # one of them
        (lambda seed: Backwards(*perceptron(seed)), {}, "no perceptrons"),
    ],
)
def test_what_cannot_share_its_steps_is_named(make, options, reason, data, accelerator):
    models = [make(seed) for seed in range(2)]
    assert reason in not_joined(models, data, replace(CONFIG, **options), accelerator)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_processes": 2}, "several processes train each"),
        ({"gradient_accumulation_steps": 2}, "gradients are accumulated"),
        ({"mixed_precision": "bf16"}, "they are in bf16"),
        ({"state": SimpleNamespace(dynamo_plugin=SimpleNamespace(backend="INDUCTOR"))}, "they are compiled"),
    ],
)
def test_an_accelerator_under_which_steps_are_not_shared_is_named(options, reason, data):
    alone = {"num_processes": 1, "gradient_accumulation_steps": 1, "mixed_precision": "no"}
    alone["state"] = SimpleNamespace(dynamo_plugin=None)
    models = [perceptron(seed) for seed in range(2)]
    assert not_joined(models, data, CONFIG, SimpleNamespace(**{**alone, **options})) == reason


def test_what_cannot_share_its_steps_is_trained_one_after_the_other(data, accelerator, caplog):
    caplog.set_level(logging.INFO, "aws_lottery")
    models, alone = ([_convolution(seed).double() for seed in range(2)] for _ in range(2))
    for model, other in zip(models, alone, strict=True):
        other.load_state_dict(model.state_dict())
    losses = train_many(models, data, CONFIG, accelerator=accelerator, seeds=(7, 8))
    assert losses == [train(m, data, CONFIG, accelerator=accelerator, seed=7 + i) for i, m in enumerate(alone)]
    assert "2 trainings one after the other: they are no perceptrons" in caplog.text


def test_each_network_has_its_own_count_of_batches(data, accelerator):
    models = with_masks()
    models[1](data.tensors[0])
    train_many(models, data, CONFIG, accelerator=accelerator, seeds=range(3))
    assert [int(model[2].num_batches_tracked) for model in models] == [9, 10, 9]  # three epochs of three batches


def test_labels_may_be_bytes_as_for_a_training_by_itself(data, accelerator):
    of_bytes = Images(data.tensors[0], data.tensors[1].to(torch.uint8))
    models, alone = with_masks(), with_masks()
    losses = train_many(models, of_bytes, CONFIG, accelerator=accelerator, seeds=(1, 2, 3))
    assert losses[0] == pytest.approx(train(alone[0], of_bytes, CONFIG, accelerator=accelerator, seed=1), abs=1e-6)


def test_each_model_needs_a_seed(data, accelerator):
    with pytest.raises(ValueError, match="got 1 models and 2 seeds"):
        train_many([perceptron(0)], data, CONFIG, accelerator=accelerator, seeds=(1, 2))


def test_data_that_has_no_full_batch_is_refused(data, accelerator):
    models, config = with_masks(), replace(CONFIG, batch_size=31)
    with pytest.raises(ValueError, match="batch_size=31 is more than there is, 30 images"):
        train_many(models, data, config, accelerator=accelerator, seeds=(1, 2, 3))


def test_labels_that_a_network_has_no_output_for_are_refused(data, accelerator):
    wrong = Images(data.tensors[0], data.tensors[1] + 1)
    with pytest.raises(ValueError, match="labels go from 1 to 3, the model has 3 outputs"):
        train_many(with_masks(), wrong, CONFIG, accelerator=accelerator, seeds=(1, 2, 3))


# verify and compare


def verified(folder: Path, data: Images, **options):
    images = ImageData(data, data, num_classes=3, name="made up")
    config = options.pop("training", CONFIG)
    accelerator = Accelerator(cpu=True)
    return verify(
        mask_of(1),
        lambda seed: perceptron(seed).double(),
        images,
        config,
        output_dir=folder,
        seeds=(1, 2),
        accelerator=accelerator,
        plots=False,
        **options,
    )


def test_verify_finds_the_same_whether_trainings_share_their_steps_or_not(tmp_path, data, capsys):
    at_once = verified(tmp_path / "at once", data, at_once=5)
    assert "5 trainings at once" in capsys.readouterr().out
    alone = verified(tmp_path / "alone", data)
    assert "at once" not in capsys.readouterr().out
    assert at_once.rows == alone.rows


def test_trainings_that_are_done_are_not_done_again(tmp_path, data, capsys):
    first = verified(tmp_path, data, at_once=5)
    (tmp_path / "trainings" / "dense-seed1-u1" / "result.json").unlink()
    capsys.readouterr()
    assert verified(tmp_path, data, at_once=5).rows == first.rows
    assert "at once" not in capsys.readouterr().out  # one is left


def test_a_network_whose_loss_is_not_finite_has_a_result_that_says_so(tmp_path, data, capsys):
    rows = verified(tmp_path, data, at_once=5, training=replace(CONFIG, learning_rate=1e300)).rows
    assert "one training after the other: a loss is not finite" in capsys.readouterr().out
    assert all("the loss is" in row.failed for row in rows if row.kind == "accuracy")


def test_at_once_is_at_least_one(tmp_path, data):
    with pytest.raises(ValueError, match="at_once must be 1 or more, got 0"):
        verified(tmp_path, data, at_once=0)


def two_trainings(folder: Path, data: Images) -> tuple[list[Job], list[Callable[[], Row]]]:
    """Two dense networks, from two seeds, at once."""
    trainings = Trainings(
        folder=folder,
        fresh=lambda seed: perceptron(seed).double(),
        data=ImageData(data, data, num_classes=3, name="made up"),
        training=CONFIG,
        protocol="paper",
        accelerator=Accelerator(cpu=True),
        at_once=2,
    )
    jobs = [Job(None, "dense", seed, seed) for seed in (1, 2)]
    return jobs, trainings.of(jobs)


def test_trainings_that_another_run_does_at_once_are_its_own(tmp_path, data):
    jobs, (first, second) = two_trainings(tmp_path, data)
    (tmp_path / "trainings").mkdir()
    with FileLock(tmp_path / "trainings" / f"{jobs[0].name}.lock"):
        for train_one in (first, second):
            with pytest.raises(Busy):
                train_one()
    assert [first().seed, second().seed] == [1, 2]


def test_a_training_that_another_run_does_by_itself_keeps_no_other_from_its_end(tmp_path, data):
    jobs, (first, second) = two_trainings(tmp_path, data)
    (tmp_path / "trainings" / jobs[1].name).mkdir(parents=True)
    with FileLock(tmp_path / "trainings" / jobs[1].name / ".lock"):
        assert first().seed == 1
        with pytest.raises(Busy):
            second()
