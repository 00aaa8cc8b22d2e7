"""Eq. 2 inside the layers of other people's models: their modes, their forwards, their hooks."""

import pytest
import torch
import torch.nn.functional as F

from aws_lottery import AWSPruner, SignedMaskConfig


def in_first_round(model):
    pruner = AWSPruner(model, SignedMaskConfig(rounds=1))
    next(stages := pruner.rounds()), next(stages)
    return pruner


def test_a_norm_in_evaluation_mode_inside_a_training_model_uses_psi_itself(convnet, images):
    in_first_round(convnet)
    with torch.no_grad():
        convnet[1].weight.fill_(3.0)
    convnet(images[0][0])  # draws alpha
    convnet[1].eval()
    x = torch.randn(4, 8, 6, 6)
    torch.testing.assert_close(convnet[1](x), F.batch_norm(x, convnet[1].running_mean, convnet[1].running_var) * 3)


def test_a_forward_that_a_norm_had_of_its_own_runs_with_the_interpolated_psi_and_is_put_back(convnet):
    norm, x = convnet[1], torch.randn(16, 8, 6, 6)
    norm.forward = doubled = lambda x: 2 * type(norm).forward(norm, x)
    pruner = in_first_round(convnet)
    with torch.no_grad():
        norm.weight.fill_(3.0)
    normalized = F.batch_norm(x, None, None, training=True)
    for alpha, scale in ((0.0, 2.0), (0.5, 4.0), (1.0, 6.0)):  # twice 1 at psi_init, twice 3 at psi
        pruner._alpha.value = torch.tensor(alpha)
        torch.testing.assert_close(norm(x), normalized * scale)
    pruner.detach()
    assert norm.forward is doubled


def test_hooks_of_others_outlive_the_search(convnet, images):
    calls = []
    convnet.register_forward_pre_hook(lambda module, args: calls.append(len(args)))
    in_first_round(convnet).detach()
    convnet(images[0][0])
    assert calls == [1]


def test_psi_init_is_taken_by_the_names_of_a_model_that_is_not_compiled(convnet, make_convnet):
    fresh = make_convnet()
    fresh[1].weight.data.fill_(0.5)
    convnet[1] = torch.compile(convnet[1], backend="eager")
    pruner = AWSPruner(convnet, psi_init=fresh.state_dict())
    assert pruner.state_dict()["interpolation"]["1._orig_mod._aws_init_weight"].tolist() == [0.5] * 8


@pytest.mark.parametrize(
    ("psi_init", "message"),
    [
        ({}, r"'1\.weight' is missing, the model has \(8,\)"),
        ({"1.weight": torch.ones(1)}, r"'1\.weight' is \(1,\), the"),
    ],
)
def test_psi_init_that_does_not_fit_is_refused(convnet, psi_init, message):
    with pytest.raises(ValueError, match=f"psi_init: {message}"):
        AWSPruner(convnet, psi_init=psi_init)
