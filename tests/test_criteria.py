"""Pruning by other criteria than magnitude: what is ranked, which gradients it sees, and what is refused."""

import io

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from torch import nn, tensor

from aws_lottery import CRITERIA, AWSPruner, Criterion, SignedMaskConfig, prune


def saliency(name, weight, gradient):
    """|w| x |gradient|, a first-order estimate of what the loss of a weight costs."""
    return (weight * gradient).abs()


@pytest.fixture
def by_saliency(monkeypatch):
    monkeypatch.setitem(CRITERIA, "saliency", Criterion(saliency, needs_gradient=True))
    return SignedMaskConfig(criterion="saliency", rounds=2, prune_rate=0.5, warmup_epochs=1, epochs_per_round=1)


# What is ranked

ones = {"w": torch.ones(4)}


def test_the_smallest_scores_go():
    theta, gradients = {"w": tensor([0.1, -0.9, 0.2, 0.5])}, {"w": tensor([9.0, -0.1, 1.0, 1.0])}
    assert prune(theta, ones, 0.5)["w"].tolist() == [0, 1, 0, 1]
    assert prune(theta, ones, 0.5, score=saliency, gradients=gradients)["w"].tolist() == [1, 0, 0, 1]


def test_scores_of_all_weights_are_ranked_together_and_may_depend_on_the_name():
    theta = {"first.weight": torch.ones(2), "last.weight": torch.ones(2)}
    masks = {name: torch.ones(2) for name in theta}
    kept = prune(theta, masks, 0.5, score=lambda name, weight, gradient: weight * (name == "last.weight"))
    assert [mask.tolist() for mask in kept.values()] == [[0, 0], [1, 1]]


def test_the_score_of_a_pruned_weight_does_not_matter():
    theta, masks = {"w": tensor([9.0, 1.0, 2.0, 3.0, 4.0])}, {"w": tensor([0, 1, 1, 1, 1])}
    assert prune(theta, masks, 0.25, score=lambda *of: 1 / of[1])["w"].tolist() == [0, 1, 1, 1, 0]


@given(
    values=st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=40),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    rate=st.integers(0, 99),
)
def test_magnitudes_by_any_function_are_the_default(values, dtype, rate):
    theta, masks = {"w": tensor(values, dtype=dtype)}, {"w": torch.ones(len(values))}
    by_function = prune(theta, masks, rate / 100, score=lambda name, weight, gradient: weight.abs())
    assert torch.equal(by_function["w"], prune(theta, masks, rate / 100)["w"])


def test_each_score_is_asked_for_once_so_that_it_may_be_random():
    asked = []

    def random(name, weight, gradient):
        asked.append(name)
        return torch.rand(weight.shape)

    theta = {"a": torch.ones(50), "b": torch.ones(50)}
    kept = prune(theta, {name: torch.ones(50) for name in theta}, 0.3, score=random)
    assert asked == ["a", "b"]
    assert sum(int(mask.sum()) for mask in kept.values()) == 70


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda name, weight, gradient: -weight, "score of 'w' has negative, NaN or infinite entries"),
        (lambda name, weight, gradient: weight.cumsum(0) - 2, "score of 'w' has negative, NaN or infinite entries"),
        (lambda name, weight, gradient: weight / 0, "score of 'w' has negative, NaN or infinite entries"),
        (lambda name, weight, gradient: weight.sum(), r"a floating tensor of shape \(4,\), got float32 of shape \(\)"),
        (lambda name, weight, gradient: weight.int(), r"a floating tensor of shape \(4,\), got int32 of shape \(4,\)"),
    ],
)
def test_what_is_no_score_is_refused_by_name(score, message):
    with pytest.raises(ValueError, match=message):
        prune({"w": torch.ones(4)}, ones, 0.5, score=score)


# Which gradients it sees


def test_the_gradient_is_the_mean_over_the_optimizer_steps_since_the_last_prune(monkeypatch):
    seen = []

    def remember(name, weight, gradient):
        seen.append(gradient.tolist())
        return weight.abs()

    monkeypatch.setitem(CRITERIA, "remember", Criterion(remember, needs_gradient=True))
    model = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Linear(1, 1))  # the second one is the classifier
    config = SignedMaskConfig(method="lrr", criterion="remember", rounds=2, prune_rate=0.5, warmup_epochs=0)
    for stage in AWSPruner(model, config).rounds():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for gradient in ([1.0, 2, 3, 4], [3.0, 5, 7, 9]) if stage.index == 1 else ([5.0, 5, 5, 5],):
            model[0].weight.grad = tensor([gradient])
            optimizer.step()
            optimizer.zero_grad()
    assert seen == [[[3.0, 4.0, 5.0, 6.0]], [[5.0, 5.0, 5.0, 5.0]]]  # the first: (5 + 1 + 3) / 3, ...


def train(model, images, batches=slice(None)):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in images[batches]:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_search_that_is_taken_up_in_mid_stage_ends_with_the_same_mask(by_saliency, make_convnet, images):
    whole, broken = make_convnet(), make_convnet()
    broken.load_state_dict(whole.state_dict())
    pruner = AWSPruner(whole, by_saliency)
    for _ in pruner.rounds():
        train(whole, images)

    first = AWSPruner(broken, by_saliency)
    for stage in first.rounds():
        if stage.index == 1:
            train(broken, images, slice(0, 2))
            break
        train(broken, images)
    saved = io.BytesIO()
    torch.save({"model": broken.state_dict(), "pruner": first.state_dict()}, saved)
    saved.seek(0)
    state = torch.load(saved, weights_only=True)

    again = make_convnet()
    again.load_state_dict(state["model"])
    second = AWSPruner(again, by_saliency)
    second.load_state_dict(state["pruner"])
    for stage in second.rounds():
        train(again, images, slice(2, None) if stage.index == 1 else slice(None))
    assert second.signed_mask() == pruner.signed_mask()


def test_a_criterion_that_needs_gradients_says_so_if_there_were_none(by_saliency, convnet):
    stages = AWSPruner(convnet, by_saliency).rounds()
    next(stages), next(stages)
    with pytest.raises(RuntimeError, match="needs gradients, and no optimizer step was seen since the last prune"):
        next(stages)


def test_nothing_looks_at_gradients_once_the_pruner_is_gone(by_saliency, convnet, images):
    from torch.optim.optimizer import _global_optimizer_post_hooks

    there = len(_global_optimizer_post_hooks)
    pruner = AWSPruner(convnet, by_saliency)
    assert len(_global_optimizer_post_hooks) > there
    pruner.detach()
    del pruner
    assert len(_global_optimizer_post_hooks) <= max(there, 1)  # that of all holds stays


# Where it is chosen


def test_files_of_before_there_were_criteria_mean_magnitude():
    config = SignedMaskConfig()
    assert config.criterion == "magnitude"
    assert not {"criterion", "include", "prune_frozen"} & config.to_dict().keys()
    assert SignedMaskConfig.from_dict(config.to_dict()) == config


def test_another_criterion_is_written_to_files_and_read_back(by_saliency):
    assert '"criterion": "saliency"' in by_saliency.to_json()
    assert SignedMaskConfig.from_json(by_saliency.to_json()) == by_saliency


def test_an_unknown_criterion_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="unknown criterion 'magnitudes'; did you mean 'magnitude'"):
        SignedMaskConfig(criterion="magnitudes")


def test_gem_miner_ranks_its_own_scores(by_saliency):
    with pytest.raises(ValueError, match="criterion must be 'magnitude' for method 'gm'"):
        SignedMaskConfig(method="gm", criterion="saliency")
