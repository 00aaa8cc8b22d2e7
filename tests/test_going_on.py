"""A search that is done goes on, starts at a mask that is there, and trains the solution after its last prune."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aws_lottery import AWSPruner, GemMiner, Provenance, SignedMask, SignedMaskConfig
from aws_lottery.mask_file.sparse_weights import load_state_file
from aws_lottery.parameters import norm_interpolation

ALL = [(method, protocol) for method in ("aws", "lrr", "imp", "wr") for protocol in ("paper", "released-code")]


def config(**values) -> SignedMaskConfig:
    return SignedMaskConfig(**{"prune_rate": 0.3, "warmup_epochs": 1, "epochs_per_round": 1, **values})


def train(model, images, epochs: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model.train()
    for x, y in images * epochs:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


def searched(pruner, images, masks: list | None = None, **options):
    for stage in pruner.rounds(None if masks is None else lambda t, mask: masks.append(mask), **options):
        train(pruner.model, images, stage.epochs)
    return pruner


def assert_equal(model, other) -> None:
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def signs_of(mask) -> dict:
    return {name: value.tolist() for name, value in mask.items()}


@pytest.mark.parametrize(("method", "protocol"), ALL)
def test_two_rounds_and_two_more_are_four_rounds_bit_for_bit(convnet, images, method, protocol):
    whole, kept = copy.deepcopy(convnet), []
    expected = searched(AWSPruner(whole, config(rounds=4, method=method, protocol=protocol)), images)
    pruner = searched(AWSPruner(convnet, config(rounds=2, method=method, protocol=protocol)), images)
    searched(pruner, images, kept, more=2)
    assert_equal(convnet, whole)
    assert pruner.signed_mask() == expected.signed_mask()  # its configuration says 4 rounds, too
    assert len(kept) == 2


@pytest.mark.parametrize(("method", "protocol"), ALL)
def test_the_state_of_a_search_that_is_done_goes_on_in_a_longer_one(convnet, images, method, protocol):
    whole, fresh = copy.deepcopy(convnet), copy.deepcopy(convnet)
    searched(AWSPruner(whole, config(rounds=4, method=method, protocol=protocol)), images)
    first = searched(AWSPruner(convnet, config(rounds=2, method=method, protocol=protocol)), images)
    state, weights = copy.deepcopy(first.state_dict()), copy.deepcopy(convnet.state_dict())
    second, seen = AWSPruner(fresh, config(rounds=4, method=method, protocol=protocol)), []
    fresh.load_state_dict(weights)
    second.load_state_dict(state)
    for stage in second.rounds():
        train(fresh, images, stage.epochs)
        seen.append(stage.index)
    assert seen == [3, 4]
    assert_equal(fresh, whole)


@pytest.mark.parametrize("method", ["lrr", "imp", "wr"])
def test_a_search_from_the_mask_of_round_two_is_rounds_three_and_four(convnet, images, method):
    whole, kept = copy.deepcopy(convnet), []
    searched(AWSPruner(whole, config(rounds=4, method=method)), images)
    first = searched(AWSPruner(convnet, config(rounds=2, method=method)), images, kept)
    start = first.rewound_copy() or first.sparse_copy()  # where the next round starts, by method
    second = AWSPruner(start, config(rounds=2, method=method, warmup_epochs=0), mask=kept[-1])
    searched(second, images)
    assert_equal(start, whole)


def test_what_the_mask_prunes_is_pruned_from_the_warm_up_on(convnet, images):
    values = {"3.weight": torch.ones(8, 8, 3, 3, dtype=torch.int8)}
    values["3.weight"][:, :4] = 0  # 288 of the 792 prunable weights
    mask = SignedMask({**SignedMask.from_model(convnet), **values}, prunable=("0.weight", "3.weight"))
    before = convnet[3].weight.detach().clone()
    pruner = AWSPruner(convnet, config(rounds=2), mask=mask)
    assert torch.equal(convnet[3].weight[:, 4:], before[:, 4:])  # weights are taken as they are, signs and all
    seen = []
    for stage in pruner.rounds():
        train(convnet, images, stage.epochs)
        seen.append(round(stage.remaining * 792))
        assert not convnet[3].weight[:, :4].any()
    assert seen == [504, 504, 353]  # 504 - floor(0.3 * 504)
    assert round(pruner.remaining * 792) == 248


def test_target_remaining_counts_the_rounds_from_the_mask(convnet):
    mask = half(convnet)
    assert mask.remaining == pytest.approx(504 / 792)  # 0.636; times 0.7 and 0.7 is 0.312
    assert AWSPruner(copy.deepcopy(convnet), config(target_remaining=0.4), mask=mask).config.rounds == 2
    with pytest.raises(ValueError, match=r"target_remaining=0.7 is reached: the mask to start at leaves 0.6364"):
        AWSPruner(convnet, config(target_remaining=0.7), mask=mask)


def half(model) -> SignedMask:
    """The mask read off a sparse network: half of the second convolution's inputs are zero."""
    with torch.no_grad():
        model[3].weight[:, :4] = 0
    return SignedMask.from_model(model)


def test_a_sparse_checkpoint_of_any_origin_is_where_a_search_starts(convnet, images):
    mask = half(convnet)
    weights = copy.deepcopy(convnet.state_dict())
    pruner = AWSPruner(convnet, config(rounds=1), mask=mask)
    assert all(torch.equal(value, weights[name]) for name, value in convnet.state_dict().items())
    searched(pruner, images)
    assert not convnet[3].weight[:, :4].any()
    assert pruner.signed_mask().provenance.history[0]["remaining"] == pytest.approx(504 / 792)


def test_a_file_of_sparse_weights_is_read_if_it_is_a_state_dict(convnet, tmp_path):
    torch.save(convnet.state_dict(), tmp_path / "weights.pt")
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    assert list(load_state_file(tmp_path / "weights.pt")) == list(convnet.state_dict())
    with pytest.raises(ValueError, match=r"other.pt' holds no state_dict"):
        load_state_file(tmp_path / "other.pt")


def test_a_mask_that_prunes_what_the_search_leaves_alone_is_refused(convnet):
    with pytest.raises(ValueError, match=r"prunes 1 tensors that this search does not prune, '3\.weight' first"):
        AWSPruner(convnet, config(exclude=("3",)), mask=half(convnet))
    AWSPruner(convnet, config(exclude=("0",)), mask=half(convnet)).detach()


def test_a_mask_of_another_network_is_refused(convnet):
    mask = SignedMask.from_model(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="the signed mask does not fit this Sequential"):
        AWSPruner(convnet, config(), mask=mask)


def test_a_layer_that_the_mask_leaves_nothing_of_is_named(convnet, caplog):
    with torch.no_grad():
        convnet[3].weight.zero_()
    AWSPruner(convnet, config(), mask=SignedMask.from_model(convnet))
    assert "the mask prunes all weights of 3.weight" in caplog.text


def test_psi_init_of_a_trained_network_is_that_of_a_fresh_one_when_given(convnet, make_convnet, images, caplog):
    train(convnet, images, 1)
    fresh, mask = make_convnet(), SignedMask.from_model(convnet)
    trained = convnet[1].weight.detach().clone()
    pruner = AWSPruner(convnet, config(), mask=mask, psi_init=fresh.state_dict())
    assert norm_interpolation.state(convnet)["1._aws_init_weight"].tolist() == [1.0] * 8
    assert torch.equal(convnet[1].weight, trained)
    assert not caplog.records
    pruner.detach()
    for options in ({"protocol": "released-code"}, {}):  # where psi_init is 1 and 0, and where there is no mask
        AWSPruner(convnet, config(**options), mask=mask if options else None).detach()
    assert not caplog.records
    AWSPruner(convnet, config(), mask=mask)
    assert "look trained ('1.bias'), and are taken for psi_init" in caplog.text
    assert torch.equal(norm_interpolation.state(convnet)["1._aws_init_weight"], trained)


def test_provenance_tells_the_chain_of_masks_before_the_oldest_first(convnet, images, tmp_path):
    first = searched(AWSPruner(convnet, config(rounds=1)), images)
    mask = first.signed_mask()
    assert mask.provenance is None
    mask.provenance = Provenance(command="python first.py", date="2026-11-25")
    mask.save_pretrained(tmp_path / "first")
    first.detach()
    second = AWSPruner(convnet, config(rounds=1, method="lrr"), mask=tmp_path / "first")
    second.signed_mask().save_pretrained(tmp_path / "second")
    second.detach()
    third = AWSPruner(convnet, config(rounds=1), mask=str(tmp_path / "second"))
    third.signed_mask().save_pretrained(tmp_path / "third")
    history = SignedMask.from_pretrained(tmp_path / "third").provenance.history
    assert [step["source"] for step in history] == [str(tmp_path / "first"), str(tmp_path / "second")]
    assert [step["config"]["method"] for step in history] == ["aws", "lrr"]
    assert (history[0]["command"], history[0]["date"]) == ("python first.py", "2026-11-25")
    card = (tmp_path / "third" / "README.md").read_text()
    assert f"| started at | `{tmp_path / 'first'}` (aws, 1 rounds, 0.7" in card


def test_a_resumed_search_knows_what_came_before(convnet, make_convnet):
    state = AWSPruner(convnet, config(), mask=half(convnet)).state_dict()
    resumed = AWSPruner(make_convnet(), config())
    resumed.load_state_dict(state)
    assert (
        resumed.signed_mask().provenance.history
        == AWSPruner(make_convnet(), config(), mask=SignedMask.from_model(convnet)).signed_mask().provenance.history
    )


def test_scores_of_what_the_mask_prunes_are_frozen_at_zero(convnet, images):
    miner = GemMiner(convnet, config(method="gm", rounds=1), mask=half(convnet))
    assert not convnet[3].weight[:, :4].any()
    assert convnet[3].weight[:, 4:].min() > 0
    searched(miner, images)
    assert not convnet[3].weight[:, :4].any()


# What can't go on


def test_more_rounds_are_for_a_search_that_is_done(convnet):
    pruner = AWSPruner(convnet, config(rounds=2))
    with pytest.raises(RuntimeError, match="this one is before round 0"):
        next(pruner.rounds(more=1))
    list(pruner.rounds())
    with pytest.raises(RuntimeError, match=r"rounds\(more=...\) goes on"):
        next(pruner.rounds())
    assert [stage.index for stage in pruner.rounds(more=1)] == [3]
    assert pruner.config.rounds == 3


def test_the_state_of_a_longer_search_is_refused(convnet, make_convnet):
    state = AWSPruner(convnet, config(rounds=4)).state_dict()
    with pytest.raises(ValueError, match="a search of 4 rounds; this pruner has 2"):
        AWSPruner(make_convnet(), config(rounds=2)).load_state_dict(state)


# The solution


@pytest.mark.parametrize(("method", "protocol"), ALL)
def test_the_solution_is_trained_after_the_last_prune_and_the_mask_stays(convnet, images, method, protocol):
    plain = copy.deepcopy(convnet)
    expected = searched(AWSPruner(plain, config(rounds=2, method=method, protocol=protocol)), images)
    start = expected.rewound_copy() or expected.sparse_copy()
    expected.signed_mask().held(start)
    train(start, images, 3)
    pruner = AWSPruner(convnet, config(rounds=2, method=method, protocol=protocol))
    stages = []
    for stage in pruner.rounds(solution_epochs=3):
        train(convnet, images, stage.epochs)
        stages.append((stage.index, stage.rounds, stage.epochs))
    assert stages == [(0, 2, 1), (1, 2, 1), (2, 2, 1), (3, 2, 3)]
    assert_equal(convnet, start)
    assert pruner.signed_mask() == expected.signed_mask()
    assert signs_of(SignedMask.from_model(convnet)) != signs_of(pruner.signed_mask())


def test_a_solution_that_was_cut_off_is_resumed(convnet, make_convnet, images):
    whole, resumed = copy.deepcopy(convnet), make_convnet()
    mask = searched(AWSPruner(whole, config(rounds=1)), images, solution_epochs=2).signed_mask()
    pruner = AWSPruner(convnet, config(rounds=1))
    for stage in pruner.rounds(solution_epochs=2):
        if stage.index == 2:
            break
        train(convnet, images, stage.epochs)
    second = AWSPruner(resumed, config(rounds=1))
    resumed.load_state_dict(convnet.state_dict())
    second.load_state_dict(pruner.state_dict())
    searched(second, images, solution_epochs=2)
    assert_equal(resumed, whole)
    assert second.signed_mask() == mask


def test_a_search_whose_solution_was_trained_does_not_go_on(convnet, make_convnet):
    pruner = AWSPruner(convnet, config(rounds=1))
    list(pruner.rounds(solution_epochs=1))
    with pytest.raises(RuntimeError, match="has trained its solution"):
        next(pruner.rounds(more=1))
    with pytest.raises(ValueError, match="has trained its solution"):
        AWSPruner(make_convnet(), config(rounds=2)).load_state_dict(pruner.state_dict())


def test_a_solution_that_was_trained_is_not_trained_again(convnet, make_convnet):
    pruner, again = AWSPruner(convnet, config(rounds=1)), AWSPruner(make_convnet(), config(rounds=1))
    list(pruner.rounds(solution_epochs=1))
    again.load_state_dict(pruner.state_dict())
    assert list(again.rounds(solution_epochs=1)) == []


def test_scores_have_no_solution(convnet):
    with pytest.raises(ValueError, match="trains scores, it has no solution"):
        next(GemMiner(convnet, config(method="gm", rounds=1)).rounds(solution_epochs=1))


def test_no_message_is_logged_by_an_ordinary_search(convnet, caplog):
    caplog.set_level(logging.WARNING)
    list(AWSPruner(convnet, config(rounds=1)).rounds())
    assert not caplog.records
