"""Barriers, computed by eye where the network allows it."""

import copy

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from aws_lottery import Barrier, SignedMask, TrainingConfig, error_barrier, sgd_stability
from aws_lottery.data import Images


def images(count: int = 256) -> Images:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(1))
    return Images(x, (x[:, 0] * x[:, 1] > 0).long())  # not linear: a permuted network is another one


DATA = images()


def between(a: nn.Module, b: nn.Module, data: Images = DATA, **options) -> Barrier:
    return error_barrier(a, b, data, train_data=DATA, accelerator=Accelerator(cpu=True), batch_size=16, **options)


def test_eq_1_by_eye():
    barrier = Barrier(alphas=(0.0, 0.5, 1.0), errors=(10.0, 50.0, 20.0))
    assert barrier.curve == (-5.0, 35.0, 5.0)
    assert barrier.barrier == 35.0


def linear(weight: float) -> nn.Linear:
    """Class 0 where weight * x_0 is above 0."""
    layer = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        layer.weight.zero_()[0, 0] = weight
    return layer


def test_the_line_goes_from_the_second_network_to_the_first():
    x = torch.tensor([[1.0, 0, 0, 0]] * 4)
    data = Images(x, torch.tensor([0, 0, 0, 1]))  # a positive weight errs at 25 %, a negative one at 75 %
    barrier = between(linear(3.0), linear(-1.0), data, points=5)
    assert barrier.alphas == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert barrier.errors == (75.0, 25.0, 25.0, 25.0, 25.0)  # weights -1, 0 (a tie goes to class 0), 1, 2, 3
    assert barrier.barrier == 25.0


def perceptron(norm: type[nn.Module] = nn.BatchNorm1d) -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 16), norm(16), nn.ReLU(), nn.Linear(16, 2))


def trained(norm: type[nn.Module] = nn.BatchNorm1d) -> nn.Sequential:
    from aws_lottery import train

    model = perceptron(norm)
    train(model, DATA, TrainingConfig(epochs=30, batch_size=16), accelerator=Accelerator(cpu=True), seed=0)
    return model


def permuted(model: nn.Sequential) -> nn.Sequential:
    """The same function with its hidden units in another order."""
    other, order = copy.deepcopy(model), torch.arange(16).roll(5)
    with torch.no_grad():
        for tensor in (*other[0].parameters(), *other[1].parameters()):
            tensor.copy_(tensor[order])
        other[3].weight.copy_(other[3].weight[:, order])
    return other


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
def test_a_network_has_no_barrier_to_itself_and_a_high_one_to_its_permutation(norm):
    model = trained(norm)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert between(model, copy.deepcopy(model)).barrier == pytest.approx(0.0)
    barrier = between(model, permuted(model))
    assert barrier.errors[0] == pytest.approx(barrier.errors[-1], abs=5)
    assert barrier.barrier > 5
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_layer_type_is_interpolated():
    """Halfway between a network and its negative everything is 0, so all images go to class 0."""
    layers = (
        nn.Unflatten(1, (1, 4)),
        nn.Conv1d(1, 2, 1),
        nn.GroupNorm(1, 2),
        nn.Flatten(),
        nn.LayerNorm(8),
        nn.Linear(8, 2),
    )
    model = nn.Sequential(*layers)
    negative = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in negative.parameters():
            parameter.neg_()
    data = Images(DATA.tensors[0], torch.zeros(256, dtype=torch.int64))
    assert between(model, negative, data, points=3).errors[1] == 0.0


def test_statistics_of_the_ends_do_not_serve_between_them():
    """Two ends with opposite weights behind a norm that undoes them: between, only re-estimated statistics fit."""
    model = trained()
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled[0].weight.mul_(100)
        scaled[0].bias.mul_(100)
    scaled[1].running_mean.mul_(100)
    scaled[1].running_var.mul_(100**2)
    assert between(model, scaled).barrier == pytest.approx(0.0, abs=2)
    as_it_stands = between(model, scaled, recalibrate_batches=0)
    assert as_it_stands.errors[0] == pytest.approx(as_it_stands.errors[-1], abs=1)
    assert as_it_stands.errors[5] >= between(model, scaled).errors[5]


def test_stability_trains_two_copies_and_keeps_the_mask():
    start = perceptron()
    with torch.no_grad():
        start[0].weight[:, 0] = 0.0
    mask = SignedMask.from_model(start)
    mask.held(start)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    config = TrainingConfig(epochs=2, batch_size=16)
    barrier = sgd_stability(start, DATA, config, test_data=DATA, accelerator=Accelerator(cpu=True), points=3)
    assert len(barrier.errors) == 3
    assert barrier.barrier >= 0
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())


def test_what_has_no_line_is_refused():
    with pytest.raises(ValueError, match=r"'bias' is \(2,\) in the first network and \(3,\) in the second"):
        between(nn.Linear(4, 2), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"'bias' is \(2,\) in the first network and missing in the second"):
        between(nn.Linear(4, 2), nn.Linear(4, 2, bias=False))
    with pytest.raises(ValueError, match="points must be 3 or more"):
        between(nn.Linear(4, 2), nn.Linear(4, 2), points=2)
    with pytest.raises(ValueError, match="seeds must be two that differ"):
        sgd_stability(
            perceptron(), DATA, TrainingConfig(), test_data=DATA, accelerator=Accelerator(cpu=True), seeds=(1, 1)
        )
