import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import tensor

from aws_lottery import interpolate, prune, radix_select, remaining, sign0, transfer


def test_sign0_gives_minus_one_zero_one_as_int8():
    s = sign0({"w": tensor([0.5, -0.2, 0.0, -0.0])})
    assert s["w"].dtype == torch.int8
    assert s["w"].tolist() == [1, -1, 0, 0]


def test_sign0_is_zero_where_the_mask_is():
    s = sign0({"w": tensor([0.5, -0.2]), "b": tensor([-1.0])}, {"w": tensor([1, 0], dtype=torch.uint8)})
    assert s["w"].tolist() == [1, 0]
    assert s["b"].tolist() == [-1]


def test_sign0_refuses_a_mask_of_another_shape():
    with pytest.raises(ValueError, match=r"mask for 'w' has shape \(1,\), the parameter has \(2,\)"):
        sign0({"w": tensor([0.5, -0.2])}, {"w": tensor([1], dtype=torch.uint8)})


def test_interpolate_goes_from_init_to_psi():
    psi, init = {"g": tensor([3.0])}, {"g": tensor([1.0])}
    assert [interpolate(psi, init, a)["g"].item() for a in (0.0, 0.25, 1.0)] == [1.0, 1.5, 3.0]


def test_the_gradient_of_interpolate_is_alpha():
    psi = {"g": tensor([3.0], requires_grad=True)}
    interpolate(psi, {"g": tensor([1.0])}, tensor(0.25))["g"].backward()
    assert psi["g"].grad.item() == 0.25


def test_transfer_refuses_what_would_not_be_0_under_a_0_of_the_mask():
    s = {"w": tensor([1, 0], dtype=torch.int8)}
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="NaN or infinite values in 'w'"):
            transfer({"w": tensor([0.5, value])}, s)


def test_transfer_takes_magnitudes_from_init_and_signs_from_the_mask():
    init = {"w": tensor([0.5, -0.2, 0.3]), "g": tensor([1.0])}
    s = {"w": tensor([-1, -1, 0], dtype=torch.int8)}
    assert transfer(init, s)["w"].tolist() == pytest.approx([-0.5, -0.2, 0.0])
    assert transfer(init, s, signed=False)["w"].tolist() == pytest.approx([0.5, -0.2, 0.0])
    assert transfer(init, s)["g"] is init["g"]
    assert init["w"].tolist() == pytest.approx([0.5, -0.2, 0.3])


def test_transfer_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"^signed mask for 'w' has shape \(2,\), the parameter has \(3,\)"):
        transfer({"w": torch.ones(3)}, {"w": torch.ones(2)})
    with pytest.raises(ValueError, match="'v', which is not among the parameters"):
        transfer({"w": torch.ones(3)}, {"v": torch.ones(3)})


def test_remaining_counts_all_tensors_together():
    assert remaining({"a": tensor([1, 0]), "b": tensor([-1, 1, 1, 1, 0, 0])}) == 0.625


@pytest.mark.parametrize("mask", [{}, {"w": torch.ones(0)}])
def test_nothing_has_no_share_that_remains(mask):
    with pytest.raises(ValueError, match="remaining needs at least one entry, the mask has none"):
        remaining(mask)


def test_prune_drops_the_smallest_survivors():
    theta = {"w": tensor([0.1, -0.9, 0.2, 0.5])}
    assert prune(theta, {"w": torch.ones(4)}, 0.5)["w"].tolist() == [0, 1, 0, 1]


def test_prune_is_global_over_tensors():
    theta = {"a": tensor([1.0, 2.0]), "b": tensor([3.0, 4.0])}
    masks = {name: torch.ones(2, dtype=torch.bool) for name in theta}
    kept = prune(theta, masks, 0.5)
    assert kept["a"].tolist() == [False, False]
    assert kept["b"].tolist() == [True, True]


def test_prune_never_brings_a_weight_back():
    theta = {"w": tensor([9.0, 0.1, 0.2, 0.3, 0.4])}
    assert prune(theta, {"w": tensor([0, 1, 1, 1, 1])}, 0.25)["w"].tolist() == [0, 0, 1, 1, 1]


def test_prune_breaks_ties_by_name_then_row_major_index():
    theta = {"b": torch.full((2, 2), 0.5), "a": torch.full((2,), -0.5)}
    masks = {name: torch.ones_like(w) for name, w in theta.items()}
    kept = prune(theta, masks, 0.5)
    assert kept["a"].tolist() == [0, 0]
    assert kept["b"].tolist() == [[0, 1], [1, 1]]


def test_prune_with_ties_drops_all_that_are_as_small_as_the_last():
    theta = {"a": torch.tensor([0.1, 0.5, 0.1]), "b": torch.tensor([0.1, 0.9, 0.2])}
    mask = {name: torch.ones(3, dtype=torch.uint8) for name in theta}
    for rate, truncate in ((0.2, False), (0.5, True)):  # one of the three 0.1, and all: with_ties goes before truncate
        pruned = prune(theta, mask, rate, with_ties=True, truncate_survivors=truncate)
        assert {name: m.tolist() for name, m in pruned.items()} == {"a": [0, 1, 0], "b": [0, 1, 1]}


@pytest.mark.parametrize(("rate", "kept"), [(0.2, [0, 1, 1, 1, 1]), (0.4, [0, 1, 1, 1, 1]), (0.6, [0, 0, 0, 1, 1])])
def test_the_released_code_keeps_all_that_are_as_large_as_the_last_to_stay(rate, kept):
    theta = {"w": tensor([0.1, 0.2, -0.2, 0.3, 0.4])}
    assert prune(theta, {"w": torch.ones(5)}, rate, truncate_survivors=True)["w"].tolist() == kept


def test_the_released_code_prunes_nothing_of_what_is_all_equal():
    theta, mask = {"w": tensor([0.0, 0.0, 0.0, 0.0])}, tensor([1, 1, 1, 0])
    assert prune(theta, {"w": mask}, 0.5, truncate_survivors=True)["w"].tolist() == [1, 1, 1, 0]


def test_the_last_survivor_goes_where_none_is_to_stay():
    assert prune({"w": tensor([0.5])}, {"w": tensor([1])}, 0.2, truncate_survivors=True)["w"].tolist() == [0]


def test_prune_breaks_ties_among_surviving_zeros():
    theta = {"w": tensor([0.0, -0.0, 0.0, 0.0, 1.0])}
    assert prune(theta, {"w": tensor([0, 1, 1, 1, 1])}, 0.5)["w"].tolist() == [0, 0, 0, 1, 1]


def test_the_rate_is_the_decimal_that_it_reads_as():
    mask = prune({"w": torch.rand(100)}, {"w": torch.ones(100)}, 0.29)  # in binary 0.29 * 100 < 29
    assert mask["w"].sum() == 71


def test_prune_keeps_dtype_and_memory_format():
    w = torch.randn(4, 4, 3, 3).to(memory_format=torch.channels_last)
    mask = torch.ones_like(w, dtype=torch.uint8)
    kept = prune({"w": w}, {"w": mask}, 0.3)["w"]
    assert kept.dtype == torch.uint8
    assert kept.stride() == mask.stride()
    assert torch.equal(kept, prune({"w": w.contiguous()}, {"w": mask.contiguous()}, 0.3)["w"])


def test_prune_tells_neighbouring_floats_apart():
    near = torch.nextafter(tensor(1.0), tensor(0.0))
    assert prune({"w": torch.stack([tensor(1.0), near])}, {"w": torch.ones(2)}, 0.5)["w"].tolist() == [1, 0]
    wide = tensor([1.0, 1.0 - 2**-53], dtype=torch.float64)
    assert prune({"w": wide}, {"w": torch.ones(2)}, 0.5)["w"].tolist() == [1, 0]


def test_prune_ranks_weights_of_different_precision_in_the_widest():
    theta = {"a": tensor([1.0]), "b": tensor([1.0 - 2**-53, 2.0], dtype=torch.float64)}
    kept = prune(theta, {"a": torch.ones(1), "b": torch.ones(2)}, 0.4)  # floor(0.4 * 3) = 1
    assert (kept["a"].tolist(), kept["b"].tolist()) == ([1], [0, 1])


def test_a_prune_of_nothing_gives_a_mask_of_its_own():
    mask = {"w": torch.ones(4)}
    kept = prune({"w": torch.ones(4)}, mask, 0.2)["w"]  # floor(0.2 * 4) = 0
    kept[0] = 0
    assert mask["w"].tolist() == [1, 1, 1, 1]


def test_prune_refuses_a_mask_that_does_not_fit():
    with pytest.raises(ValueError, match=r"^mask for 'w' has shape \(1,\), the parameter has \(2,\)"):
        prune({"w": torch.ones(2)}, {"w": torch.ones(1)}, 0.5)
    with pytest.raises(ValueError, match=r"^mask names 'v', which is not among the parameters"):
        prune({"w": torch.ones(2)}, {"v": torch.ones(2)}, 0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_prune_and_sign0_refuse_what_is_not_finite_by_name(value):
    theta = {"fine": torch.ones(2), "layer3.weight": tensor([1.0, value])}
    masks = {name: torch.ones(2) for name in theta}
    with pytest.raises(ValueError, match=r"'layer3\.weight'"):
        prune(theta, masks, 0.2)
    with pytest.raises(ValueError, match=r"'layer3\.weight'"):
        sign0(theta)
    with pytest.raises(ValueError, match="'scale'"):
        sign0({"scale": tensor([value])})


def test_a_parameter_without_entries_has_no_signs_to_refuse():
    assert sign0({"w": torch.ones(0, 3)})["w"].shape == (0, 3)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_prune_refuses_a_rate_out_of_range(rate):
    with pytest.raises(ValueError, match="prune rate must be in"):
        prune({"w": torch.ones(4)}, {"w": torch.ones(4)}, rate)


weights = st.lists(
    st.one_of(st.floats(-4, 4, width=16), st.sampled_from([0.0, -0.0, 0.5, -0.5])), min_size=1, max_size=40
)


@settings(deadline=None)
@given(
    tensors=st.lists(weights, min_size=1, max_size=4),
    rate=st.integers(0, 99),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    data=st.data(),
)
def test_prune_equals_a_stable_sort(tensors, rate, dtype, data):
    theta = {f"t{i}": tensor(values, dtype=dtype) for i, values in enumerate(tensors)}
    masks = {
        name: tensor(data.draw(st.lists(st.integers(0, 1), min_size=len(w), max_size=len(w))), dtype=torch.uint8)
        for name, w in theta.items()
    }
    kept = prune(dict(reversed(theta.items())), dict(reversed(masks.items())), rate / 100)

    flat = torch.cat([w.abs().double() for w in theta.values()]).numpy()
    alive = np.flatnonzero(torch.cat(list(masks.values())).numpy())
    order = alive[np.argsort(flat[alive], kind="stable")]
    expected = torch.cat(list(masks.values()))
    expected[order[: len(alive) * rate // 100]] = 0
    assert torch.equal(torch.cat([kept[name] for name in theta]), expected)


def test_prune_is_exact_across_chunks(monkeypatch):
    theta, masks = {"w": torch.randint(-9, 9, (1000,)).float()}, {"w": torch.ones(1000, dtype=torch.uint8)}
    whole = prune(theta, masks, 0.3)["w"]
    monkeypatch.setattr(radix_select, "_CHUNK", 7)
    assert torch.equal(prune(theta, masks, 0.3)["w"], whole)


@given(values=weights)
def test_transferring_the_signs_of_a_network_to_itself_changes_nothing(values):
    theta = {"w": tensor(values)}
    assert torch.equal(transfer(theta, sign0(theta))["w"], theta["w"])


# by hand: int(0.8 * 101) = 80, int(0.8 * 80) = 64, int(0.8 * 64) = 51, int(0.8 * 51) = 40;
# 101 - int(20.2) = 81, 81 - int(16.2) = 65, 65 - int(13.0) = 52, 52 - int(10.4) = 42
@pytest.mark.parametrize(("truncate", "survivors"), [(True, [80, 64, 51, 40]), (False, [81, 65, 52, 42])])
def test_survivors_are_counted_as_in_the_released_code_or_by_what_goes(truncate, survivors):
    theta, mask, counts = {"w": torch.rand(101)}, {"w": torch.ones(101)}, []
    for _ in survivors:
        mask = prune(theta, mask, 0.2, truncate_survivors=truncate)
        counts.append(int(mask["w"].sum()))
    assert counts == survivors
