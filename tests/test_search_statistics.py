"""What else tells about a search, by eye."""

import math

import pytest
import torch
from torch import nn, tensor

from aws_lottery.experiments.search_statistics import negative_gammas, sign_flips, with_norms_reset


def test_sign_flips_count_weights_left_in_both():
    before = {"w": tensor([1, 1, -1, 0, -1], dtype=torch.int8), "b": tensor([1], dtype=torch.int8)}
    after = {"w": tensor([1, -1, 0, 1, -1], dtype=torch.int8), "b": tensor([-1], dtype=torch.int8)}
    assert sign_flips(before, after) == 2 / 4
    assert math.isnan(sign_flips({"w": tensor([0])}, {"w": tensor([1])}))


def test_masks_of_two_models_have_no_flips():
    one, two = {"w": tensor([1])}, {"w": tensor([1, -1])}
    with pytest.raises(ValueError, match=r"'w' has shape \(1,\)"):
        sign_flips(one, two)
    for before, after in ((one, {**one, "b": tensor([1])}), ({**one, "b": tensor([1])}, one)):
        with pytest.raises(ValueError, match="names 'b'"):
            sign_flips(before, after)


def test_negative_gammas_are_those_of_norm_layers():
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.LayerNorm(4), nn.BatchNorm1d(4, affine=False))
    with torch.no_grad():
        model[0].weight.fill_(-1.0)
        model[1].weight.copy_(tensor([1.0, -1.0, 2.0, -0.5]))
        model[1].bias.fill_(-1.0)
    assert negative_gammas(model) == 2 / 8
    assert math.isnan(negative_gammas(nn.Linear(2, 2)))


def test_norms_reset_are_those_of_the_init_and_the_rest_is_kept():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    init = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(3.0)
    reset = with_norms_reset(model, init)
    assert reset[1].weight.tolist() == [1.0, 1.0]
    assert reset[1].bias.tolist() == [0.0, 0.0]
    assert torch.equal(reset[0].weight, model[0].weight)
    assert model[1].weight.tolist() == [4.0, 4.0]


def test_an_init_of_another_model_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(ValueError, match=r"psi_init lacks '1.weight'"):
        with_norms_reset(model, {})
    with pytest.raises(ValueError, match=r"psi_init for '1.weight' has shape \(1,\)"):
        with_norms_reset(model, {"1.weight": torch.ones(1), "1.bias": torch.ones(2)})
