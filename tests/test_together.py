"""The short form of benchmarks/together.py: trainings that are joined are those of each network by itself."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from together import measure, row
from ways_together import NETWORKS, PLAIN, WAYS, Data, Trainer, largest_difference


@pytest.mark.parametrize(
    ("network", "name"), [("perceptron", "vmap"), ("perceptron", "grouped"), ("resnet8", "grouped")]
)
def test_networks_that_are_joined_train_as_each_by_itself(network, name):
    assert largest_difference(WAYS[name], *NETWORKS[network], k=2, steps=2) < 1e-12


def test_the_comparison_is_of_networks_that_move():
    fresh, image = NETWORKS["perceptron"]
    trainer = Trainer(WAYS[PLAIN], [fresh(0)], Data(image, 1, "cpu", torch.float32))
    trainer.train(3)
    assert (trainer.way.state["1.weight"] - fresh(0)[1].weight).abs().max() > 0.01


def test_each_way_has_a_ratio_for_each_round():
    measured = measure("perceptron", 2, [PLAIN, "grouped"], rounds=2)
    assert measured.ratios(PLAIN) == [1, 1]
    assert len(measured.ratios("grouped")) == len(measured.bound) == 2
    assert row("perceptron", 2, measured).startswith("| perceptron | 2 | ")
