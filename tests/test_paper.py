"""The hyper-parameters of the paper and of its released code."""

import pytest
import torch

from aws_lottery.paper import GEM_MINER, IMAGENET, IMAGENET_RELEASED_CODE, SMALL_IMAGES
from aws_lottery.training_config import SCHEDULES, TrainingConfig


def test_the_papers_final_trainings():
    assert {name: row.final.epochs for name, row in IMAGENET.items()} == {
        "resnet50": 120,
        "mobilenetv2": 120,
        "mlp_mixer": 200,
    }
    assert {row.final.epochs for row in SMALL_IMAGES.values()} == {100}
    assert {row.final.min_learning_rate for row in IMAGENET.values()} == {0.0}


def test_the_released_codes_final_trainings_are_shorter_and_nothing_else_differs():
    final = {name: row.final for name, row in IMAGENET_RELEASED_CODE.items()}
    assert {name: (c.epochs, c.min_learning_rate) for name, c in final.items()} == {
        "resnet50": (100, 1e-3),
        "mobilenetv2": (100, 1e-3),
        "mlp_mixer": (100, 1e-3),
    }
    for name, row in IMAGENET.items():
        theirs = IMAGENET_RELEASED_CODE[name]
        assert (theirs.rounds, theirs.warmup_epochs, theirs.epochs_per_round) == (10, 20, 5)
        assert theirs.final.learning_rate == row.final.learning_rate
        assert theirs.search.optimizer == row.search.optimizer


@pytest.mark.parametrize(("share", "last"), [(0.0, 0.0), (1e-3, 2e-4)])
def test_the_cosine_ends_at_its_share_of_the_learning_rate(share, last):
    config = TrainingConfig(epochs=4, learning_rate=0.2, schedule="cosine", min_learning_rate=share)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], config.learning_rate)
    schedule = SCHEDULES["cosine"](optimizer, config)
    rates = []
    for _ in range(config.epochs):
        optimizer.step()
        rates.append(schedule.get_last_lr()[0])
        schedule.step()
    assert rates[0] == 0.2
    assert rates[2] == pytest.approx((0.2 + last) / 2)
    assert schedule.get_last_lr()[0] == pytest.approx(last, abs=1e-12)


def test_gem_miner_freezes_29_times_in_150_epochs_down_to_a_twentieth():
    assert GEM_MINER.warmup_epochs + GEM_MINER.rounds * GEM_MINER.epochs_per_round == GEM_MINER.search.epochs == 150
    assert (1 - GEM_MINER.prune_rate) ** GEM_MINER.rounds == pytest.approx(0.05, abs=1e-3)
    assert (GEM_MINER.search.learning_rate, GEM_MINER.search.schedule, GEM_MINER.final.learning_rate) == (
        0.1,
        "cosine",
        0.01,
    )
