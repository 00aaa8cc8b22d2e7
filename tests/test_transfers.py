"""Where a final training starts, by eye; and the weights kept beside a mask."""

import copy
import random

import pytest
import safetensors.torch
import torch
from torch import nn

from aws_lottery import SignedMask
from aws_lottery.mask_file.sparse_weights import WEIGHTS_FILE, load_state_file, load_weights, save_weights
from aws_lottery.parameters.hold import held_by
from aws_lottery.transfers import TRANSFERS, Transfer, transfer_


def network(weight: list[float], scale: float, bias: float) -> nn.Sequential:
    """A prunable linear map of one output, a norm, a classifier of weight 1 and bias 0."""
    model = nn.Sequential(nn.Linear(4, 1, bias=False), nn.BatchNorm1d(1), nn.Linear(1, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([weight]))
        model[1].weight.fill_(scale)
        model[1].bias.fill_(bias)
        model[2].weight.fill_(1.0)
        model[2].bias.fill_(0.0)
    return model


def found() -> nn.Sequential:
    model = network([-5.0, 0.0, 6.0, -7.0], scale=-0.5, bias=0.25)
    with torch.no_grad():
        model[2].weight.fill_(-8.0)
    return model


def start(transfer: str, **options) -> nn.Sequential:
    model, trained = network([1.0, -2.0, -3.0, -4.0], scale=1.0, bias=0.0), found()
    weights = {name: parameter.detach() for name, parameter in trained.named_parameters()}
    transfer_(model, TRANSFERS[transfer], SignedMask.from_model(trained), weights=weights, **options)
    return model


@pytest.mark.parametrize(
    ("transfer", "weight", "psi", "classifier"),
    [
        ("dense", [1.0, -2.0, -3.0, -4.0], (1.0, 0.0), 1.0),
        ("solution", [-5.0, 0.0, 6.0, -7.0], (-0.5, 0.25), -8.0),
        ("signs", [-1.0, 0.0, 3.0, -4.0], (1.0, 0.0), -1.0),
        ("mask", [1.0, 0.0, -3.0, -4.0], (1.0, 0.0), 1.0),
        ("signs-norm", [-1.0, 0.0, 3.0, -4.0], (-0.5, 0.25), -1.0),
        ("signs-norm-signs", [-1.0, 0.0, 3.0, -4.0], (-1.0, 0.0), -1.0),
        ("signs-norm-shifted", [-1.0, 0.0, 3.0, -4.0], (-1.0, 0.1), -1.0),
    ],
)
def test_a_start_takes_what_its_row_says(transfer, weight, psi, classifier):
    model = start(transfer)
    assert model[0].weight.tolist() == [weight]
    assert (model[1].weight.item(), model[1].bias.item()) == pytest.approx(psi)
    assert model[2].weight.item() == classifier


def test_a_start_needs_trained_weights_for_phi_or_psi_of_the_search():
    needs = {name: row.needs_weights for name, row in TRANSFERS.items()}
    assert [name for name in needs if needs[name]] == [
        "solution",
        "signs-norm",
        "signs-norm-signs",
        "signs-norm-shifted",
        "magnitudes",
    ]
    assert Transfer("trained weights, fresh norm", None, phi="search").needs_weights
    model = network([1.0, -2.0, -3.0, -4.0], scale=1.0, bias=0.0)
    transfer_(model, TRANSFERS["signs"], SignedMask.from_model(found()))  # without any
    assert model[0].weight.tolist() == [[-1.0, 0.0, 3.0, -4.0]]


def test_signs_of_psi_come_under_the_magnitudes_of_its_init_and_are_0_where_psi_is():
    model, trained = network([1.0] * 4, scale=-2.0, bias=0.5), network([1.0] * 4, scale=-0.1, bias=0.0)
    weights = trained.state_dict()
    transfer_(model, TRANSFERS["signs-norm-signs"], SignedMask.from_model(trained), weights=weights)
    assert (model[1].weight.item(), model[1].bias.item()) == (-2.0, 0.0)


def test_a_solution_that_rewinds_keeps_the_signs_of_the_weights_that_it_goes_back_to():
    """A(theta_0 * m_T) of Section 3.1: m_T prunes, and the signs that training found stay out of it."""
    model, rewound = network([1.0, -2.0, -3.0, -4.0], 1.0, 0.0), network([5.0, 6.0, -7.0, 8.0], 1.0, 0.0)
    weights = {name: parameter.detach() for name, parameter in rewound.named_parameters()}
    transfer_(model, TRANSFERS["solution"], SignedMask.from_model(found()), weights=weights)
    assert model[0].weight.tolist() == [[5.0, 0.0, -7.0, 8.0]]
    assert model[2].weight.item() == 1.0


def test_only_a_start_from_the_magnitudes_of_a_search_takes_its_statistics_of_batchnorm():
    trained = found()
    trained[1].running_mean.fill_(3.0)
    weights = dict(trained.state_dict())
    means = {}
    for transfer in ("solution", "magnitudes", "signs-norm", "signs"):
        model = network([1.0] * 4, 1.0, 0.0)
        transfer_(model, TRANSFERS[transfer], SignedMask.from_model(trained), weights=weights)
        means[transfer] = model[1].running_mean.item()
    assert means == {"solution": 3.0, "magnitudes": 3.0, "signs-norm": 0.0, "signs": 0.0}


def test_random_signs_keep_magnitudes_and_zeros():
    fresh, solution = start("random-signs", seed=1), start("magnitudes", seed=1)
    assert fresh[0].weight.abs().tolist() == [[1.0, 0.0, 3.0, 4.0]]
    assert solution[0].weight.abs().tolist() == [[5.0, 0.0, 6.0, 7.0]]
    assert fresh[0].weight.sign().tolist() == solution[0].weight.sign().tolist()
    assert len({tuple(start("random-signs", seed=seed)[0].weight.sign().flatten().tolist()) for seed in range(8)}) > 1


def test_a_shuffled_mask_leaves_as_many_weights_elsewhere_with_the_signs_of_the_init():
    models = [start("shuffled-mask", seed=seed) for seed in range(8)]
    assert {int((model[0].weight == 0).sum()) for model in models} == {1}
    places = [(model[0].weight == 0).tolist() for model in models]
    assert any(place != places[0] for place in places)
    assert (start("shuffled-mask", seed=5)[0].weight == 0).tolist() == places[5]
    assert (start("shuffled-mask")[0].weight == 0).tolist() == places[0]
    assert all(
        value in (0.0, init) for value, init in zip(models[0][0].weight[0].tolist(), [1, -2, -3, -4], strict=True)
    )


def test_a_shuffled_mask_is_of_the_same_model():
    mask = SignedMask(
        dict(SignedMask.from_model(found())), parameters=99, checkpoint_names={"0.weight": "embeddings.weight"}
    )
    shuffled = TRANSFERS["shuffled-mask"].mask(mask, 0)
    assert (shuffled.parameters, shuffled.checkpoint_names) == (99, {"0.weight": "embeddings.weight"})


@pytest.mark.parametrize("transfer", [name for name in TRANSFERS if name != "dense"])
def test_a_start_is_held_to_its_mask(transfer):
    assert held_by(start(transfer)) is not None


def test_dense_is_not_held():
    assert held_by(start("dense")) is None


def test_trained_weights_that_are_missing_or_do_not_fit_are_named():
    mask, model = SignedMask.from_model(found()), network([1.0] * 4, 1.0, 0.0)
    with pytest.raises(ValueError, match="takes trained weights: give those of the search"):
        transfer_(model, TRANSFERS["solution"], mask)
    weights = {name: parameter.detach() for name, parameter in found().named_parameters()}
    with pytest.raises(ValueError, match=r"trained weight '1.bias' is \(3,\), the model has \(1,\)"):
        transfer_(model, TRANSFERS["solution"], mask, weights={**weights, "1.bias": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"trained weight '1.running_mean' is \(3,\), the model has \(1,\)"):
        transfer_(model, TRANSFERS["solution"], mask, weights={**weights, "1.running_mean": torch.zeros(3)})
    del weights["1.bias"]
    with pytest.raises(ValueError, match=r"trained weight '1.bias' is missing, the model has \(1,\)"):
        transfer_(model, TRANSFERS["solution"], mask, weights=weights)


def test_a_start_that_is_refused_leaves_the_network_as_it_is():
    trained = found()
    mask = SignedMask({**SignedMask.from_model(trained), "9.weight": torch.ones(1, dtype=torch.int8)})
    held, free = start("signs"), network([1.0, -2.0, -3.0, -4.0], scale=1.0, bias=0.0)
    for model, refused, message in ((free, mask, "does not fit"), (held, SignedMask.from_model(trained), "is held to")):
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ValueError, match=message):
            transfer_(model, TRANSFERS["solution"], refused, weights=trained.state_dict())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_are_kept_beside_their_mask_without_the_pruned_ones(tmp_path):
    model = found()
    model[1].running_var.fill_(7.0)
    mask = SignedMask.from_model(model)
    save_weights(tmp_path, model, mask)
    back = load_weights(tmp_path, mask)
    assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())  # buffers too
    with pytest.raises(FileNotFoundError, match=r"no weights\.safetensors in"):
        load_weights(tmp_path / "elsewhere", mask)


def test_a_file_of_weights_without_buffers_still_serves(tmp_path):
    model, trained = network([1.0] * 4, 1.0, 0.0), found()
    mask = SignedMask.from_model(trained)
    save_weights(tmp_path, trained, mask)
    path = tmp_path / WEIGHTS_FILE
    tensors = safetensors.torch.load_file(path)
    old = {name: tensor for name, tensor in tensors.items() if "running" not in name and "num_batches" not in name}
    safetensors.torch.save_file(old, path)
    transfer_(model, TRANSFERS["solution"], mask, weights=load_weights(tmp_path, mask))
    assert model[0].weight.tolist() == [[-5.0, 0.0, 6.0, -7.0]]
    assert model[1].running_var.item() == 1.0
    other = SignedMask.from_model(network([1.0] * 4, 1.0, 0.0))
    with pytest.raises(ValueError, match=r"'0\.weight' has 3 weights, the mask leaves 4; are the two of one search"):
        load_weights(tmp_path, other)


def test_weights_of_another_mask_with_as_many_survivors_are_refused(tmp_path):
    model = found()
    mask = SignedMask.from_model(model)
    save_weights(tmp_path, model, mask)
    other = SignedMask({name: -value for name, value in mask.items()}, prunable=mask.prunable)
    with pytest.raises(ValueError, match=r"weights\.safetensors: its weights are of another mask"):
        load_weights(tmp_path, other)


def test_no_flipped_bit_of_a_file_of_weights_is_loaded(tmp_path):
    model = found()
    mask = SignedMask.from_model(model)
    save_weights(tmp_path, model, mask)
    path = tmp_path / WEIGHTS_FILE
    data = path.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(data)), 100):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"weights\.safetensors"):
            load_weights(tmp_path, mask)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_a_damaged_state_file_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\x09\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(ValueError, match=f"cannot read '.*{name}', it is damaged or holds more than tensors"):
        load_state_file(path)
    with pytest.raises(FileNotFoundError):
        load_state_file(tmp_path / f"none-{name}")
