"""Barriers, computed by eye where the network allows it."""

import copy
import inspect

import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration, debug_launcher
from accelerate.state import AcceleratorState
from torch import nn

from aws_lottery import (
    Barrier,
    SignedMask,
    TrainingConfig,
    barrier_between,
    connectivity,
    error_barrier,
    sgd_stability,
    train,
)
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
    assert barrier.ends == (20.0, 10.0)


def test_ends_count_in_the_sup():
    assert Barrier(alphas=(0.0, 0.5, 1.0), errors=(10.0, 12.0, 30.0)).barrier == 10.0


def test_a_hump_is_told_from_ends_that_differ():
    """Eq. 1 is half the difference of the ends plus the height over the higher end."""
    hump = Barrier(alphas=(0.0, 0.5, 1.0), errors=(10.0, 50.0, 20.0))
    assert (hump.half_difference, hump.over_line, hump.over_higher_end) == (5.0, 35.0, 30.0)
    slope = Barrier(alphas=(0.0, 0.5, 1.0), errors=(10.0, 20.0, 30.0))
    assert (slope.barrier, slope.half_difference, slope.over_line, slope.over_higher_end) == (10.0, 10.0, 0.0, 0.0)
    arch = Barrier(alphas=(0.0, 0.5, 1.0), errors=(10.0, 28.0, 30.0))  # above the straight line, below the higher end
    assert (arch.barrier, arch.over_line, arch.over_higher_end) == (10.0, 8.0, 0.0)


@pytest.mark.parametrize("measured", [error_barrier, barrier_between, sgd_stability])
def test_a_line_has_eleven_points_as_in_the_released_code(measured):
    assert inspect.signature(measured).parameters["points"].default == 11


def linear(weight: float) -> nn.Linear:
    """Class 0 where weight * x_0 is above 0."""
    layer = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        layer.weight.zero_()[0, 0] = weight
    return layer


def test_a_barrier_is_measured_in_any_figure():
    """The weight itself goes from -1 to 3, and 10 less its square has a hump where that is 0."""
    a, b = linear(3.0), linear(-1.0)
    barrier = barrier_between(a, b, lambda probe: 10 - float(probe.weight.detach()[0, 0]) ** 2, points=5)
    assert barrier.errors == (9.0, 10.0, 9.0, 6.0, 1.0)
    assert barrier.barrier == 5.0
    assert [end.weight[0, 0].item() for end in (a, b)] == [3.0, -1.0]  # they are left as they were


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
    alike = between(model, copy.deepcopy(model))
    assert alike.barrier == 0.0
    assert alike.ends[0] < 25
    barrier = between(model, permuted(model))
    assert barrier.errors[0] == pytest.approx(barrier.errors[-1], abs=5)
    assert barrier.barrier > 5
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def recorded(monkeypatch, a: nn.Module, b: nn.Module | dict, **options) -> list[dict[str, torch.Tensor]]:
    """The state_dict of each network that is measured between a and b."""
    seen = []

    def record(model, data, *, accelerator):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return 100.0

    monkeypatch.setattr(connectivity, "evaluate", record)
    between(a, b, points=3, **options)
    return seen


def every_layer() -> nn.Sequential:
    """Parameters of all kinds, drawn anew: a LayerNorm's are not 1 and 0."""
    layers = (nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 1), nn.GroupNorm(1, 2), nn.Flatten(), nn.LayerNorm(8))
    model = nn.Sequential(*layers, nn.Linear(8, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def test_every_layer_type_is_interpolated(monkeypatch):
    a, b = every_layer(), every_layer()
    first, middle, last = recorded(monkeypatch, a, b)
    for name, theta in a.state_dict().items():
        other = b.state_dict()[name]
        assert not torch.equal(theta, other)
        assert torch.equal(first[name], other)
        torch.testing.assert_close(middle[name], (theta + other) / 2)
        assert torch.equal(last[name], theta)


def test_floating_buffers_are_interpolated_and_integers_are_those_of_the_first(monkeypatch):
    a, b = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    for model, value in ((a, 6), (b, 2)):
        model.running_mean.fill_(value)
        model.num_batches_tracked.fill_(value)
    seen = recorded(monkeypatch, a, b, recalibrate_batches=0)
    assert [state["running_mean"][0].item() for state in seen] == [2.0, 4.0, 6.0]
    assert [state["num_batches_tracked"].item() for state in seen] == [6, 6, 6]
    seen = recorded(monkeypatch, a, b, recalibrate_batches=5)  # anew at each point, of 16 batches
    assert [state["num_batches_tracked"].item() for state in seen] == [5, 5, 5]


def test_complex_parameters_are_interpolated():
    a, b = nn.ParameterList([torch.tensor([2 + 4j])]), nn.ParameterList([torch.tensor([0j])])
    assert barrier_between(a, b, lambda probe: probe[0].item().imag, points=3).errors == (0.0, 2.0, 4.0)


def test_equal_infinities_stay_beside_values_that_move(monkeypatch):
    a, b = linear(1.0), linear(-1.0)
    for model, last in ((a, 4.0), (b, 2.0)):
        model.register_buffer("bounds", torch.tensor([-torch.inf, torch.inf, last]))
    assert recorded(monkeypatch, a, b)[1]["bounds"].tolist() == [-torch.inf, torch.inf, 3.0]


def test_networks_held_to_different_masks_are_both_whole_at_their_ends(monkeypatch):
    a, b = perceptron(), perceptron()
    for model, pruned in ((a, 0), (b, 1)):
        with torch.no_grad():
            model[0].weight.normal_()[:, pruned] = 0.0
        SignedMask.from_model(model).held(model)
    before = [copy.deepcopy(model.state_dict()) for model in (a, b)]
    first, middle, last = (state["0.weight"] for state in recorded(monkeypatch, a, b))
    assert torch.equal(first, b[0].weight)
    assert torch.equal(last, a[0].weight)
    torch.testing.assert_close(middle, (a[0].weight + b[0].weight) / 2)
    for model, was in zip((a, b), before, strict=True):
        assert all(torch.equal(value, was[name]) for name, value in model.state_dict().items())
        assert model.training
        model(DATA.tensors[0]).sum().backward()
        assert model[0].weight.grad.eq(0).any()  # the hold is in force


def test_the_other_end_may_be_a_state_dict_and_either_compiled():
    a, b = linear(3.0), linear(-1.0)
    expected = between(a, b)
    assert between(a, {**b.state_dict(), "epoch": 3}) == expected
    assert between(torch.compile(a, backend="eager"), torch.compile(b, backend="eager")) == expected
    inside, plain = nn.Sequential(a), nn.Sequential(b)
    inside[0] = torch.compile(a, backend="eager")
    assert between(inside, plain) == expected


def thresholded(scale: float) -> nn.Sequential:
    """scale * x_0, standardized to z by its statistics; class 1 where z > 0.8. The same function for every scale."""
    model = nn.Sequential(nn.Linear(4, 1, bias=False), nn.BatchNorm1d(1, affine=False), nn.Linear(1, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[scale, 0, 0, 0]]))
        model[1].running_var.fill_(scale**2)
        model[2].weight.copy_(torch.tensor([[0.0], [1.0]]))
        model[2].bias.copy_(torch.tensor([0.0, -0.8]))
    return model


def test_statistics_of_the_ends_do_not_serve_between_them():
    """Halfway between scales 1 and 100 the variance is 50.5 ** 2, not (1 + 10000) / 2: z would be 0.71, not 1."""
    x = torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]] * 32)
    data = Images(x, torch.tensor([1, 0] * 32))
    options = {"train_data": data, "accelerator": Accelerator(cpu=True), "batch_size": 64, "points": 3}
    a, b = thresholded(1.0), thresholded(100.0)
    assert error_barrier(a, b, data, **options).errors == (0.0, 0.0, 0.0)
    assert error_barrier(a, b, data, **options, recalibrate_batches=0).errors == (0.0, 50.0, 0.0)


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
    ends = [copy.deepcopy(start) for _ in range(2)]
    for seed, model in enumerate(ends):
        train(model, DATA, config, accelerator=Accelerator(cpu=True), seed=seed)
        assert model[0].weight[:, 0].count_nonzero() == 0
    assert not torch.equal(ends[0][0].weight, ends[1][0].weight)
    assert between(*ends, points=3) == barrier
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())


def test_what_has_no_line_is_refused():
    with pytest.raises(ValueError, match=r"'bias' is \(2,\) in the first network and \(3,\) in the second"):
        between(nn.Linear(4, 2), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"'bias' is \(2,\) in the first network and missing in the second"):
        between(nn.Linear(4, 2), nn.Linear(4, 2, bias=False))
    with pytest.raises(ValueError, match="points must be 3 or more"):
        between(nn.Linear(4, 2), nn.Linear(4, 2), points=2)
    for seeds in ((1, 1), (0, 1, 2)):
        with pytest.raises(ValueError, match="seeds must be two that differ"):
            sgd_stability(
                perceptron(), DATA, TrainingConfig(), test_data=DATA, accelerator=Accelerator(cpu=True), seeds=seeds
            )


def _on_each_rank(state_a, state_b, expected):
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=True))
    assert accelerator.num_processes == 2
    a = perceptron()
    a.load_state_dict(state_a)
    barrier = error_barrier(
        a, state_b, images(99), train_data=DATA, accelerator=accelerator, batch_size=16, points=3, progress=True
    )
    assert barrier == expected, barrier
    accelerator.end_training()


@pytest.mark.multiprocess
@pytest.mark.filterwarnings("ignore")  # torch.distributed's own
def test_two_ranks_find_the_barrier_of_one():
    a = trained()
    b = permuted(a)
    expected = between(a, b, images(99), points=3)
    debug_launcher(_on_each_rank, args=(a.state_dict(), b.state_dict(), expected), num_processes=2)
