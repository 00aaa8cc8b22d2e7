"""Likeness of masks beside chance, and masks made of several."""

import math

import pytest
import torch
from torch import tensor

from aws_lottery import SignedMask
from aws_lottery.mask_algebra import ALL, consensus, difference, intersection, likeness, union


def mask(*weight: int, bias: tuple[int, ...] = (1, -1)) -> SignedMask:
    values = {"w": tensor(weight, dtype=torch.int8), "b": tensor(bias, dtype=torch.int8)}
    return SignedMask(values, prunable=("w",), parameters=20)


A = mask(+1, -1, +1, 0, -1, 0)
B = mask(+1, +1, 0, 0, -1, -1, bias=(-1, -1))
C = mask(+1, -1, -1, 0, 0, -1)


def test_likeness_counts_places_and_signs_beside_chance():
    row, total = likeness(A, B)
    assert (row.name, row.weights) == ("w", 6)
    assert row.remaining == (4 / 6, 4 / 6)
    assert row.overlap == 3 / 5  # places 0, 1 and 4 of 0, 1, 2, 4 and 5
    assert row.overlap_by_chance == pytest.approx((4 / 9) / (4 / 3 - 4 / 9))
    assert row.agreement == 2 / 3  # not at place 1
    assert row.agreement_by_chance == pytest.approx(1 / 3 * 2 / 3 + 2 / 3 * 1 / 3)
    assert total.name == ALL
    assert list(vars(total).values())[3:] == pytest.approx(list(vars(row).values())[3:])


def test_random_masks_are_as_alike_as_chance_says():
    generator = torch.Generator().manual_seed(0)

    def random(*shares: float) -> SignedMask:
        def layer(share: float) -> torch.Tensor:
            there = torch.rand(40_000, generator=generator) < share
            return there.to(torch.int8) * torch.where(torch.rand(40_000, generator=generator) < 0.7, 1, -1).to(
                torch.int8
            )

        return SignedMask({f"layer{i}": layer(share) for i, share in enumerate(shares)})

    for row in likeness(random(0.5, 0.1), random(0.3, 0.05)):
        assert row.overlap == pytest.approx(row.overlap_by_chance, abs=0.01)
        assert row.agreement == pytest.approx(row.agreement_by_chance, abs=0.04)


def test_a_mask_is_wholly_like_itself():
    assert {(row.overlap, row.agreement) for row in likeness(A, A)} == {(1.0, 1.0)}


def test_masks_without_a_place_in_common_have_no_agreement():
    row, total = likeness(mask(1, 0), mask(0, 1))
    assert row.overlap == 0
    assert math.isnan(row.agreement)
    assert math.isnan(total.agreement_by_chance)


def test_layers_without_a_place_in_common_or_without_any_do_not_spoil_the_figures_of_all():
    layers = (("v", [1, -1], [1, 1]), ("w", [1, 0], [0, 1]), ("x", [], []))
    first, second = (
        SignedMask({layer[0]: tensor(layer[side], dtype=torch.int8) for layer in layers}) for side in (1, 2)
    )
    total = likeness(first, second)[-1]
    assert (total.overlap, total.agreement) == (2 / 4, 1 / 2)
    assert total.overlap_by_chance == pytest.approx(2.5 / (6 - 2.5))  # 2 * 2 / 2 in v and 1 * 1 / 2 in w are in both
    assert total.agreement_by_chance == 1 / 2  # in v: 1 / 2 of + against 2 / 2


@pytest.mark.parametrize(
    ("join", "masks", "expected"),
    [
        (intersection, (A, B), [1, 0, 0, 0, -1, 0]),
        (intersection, (A, B, C), [1, 0, 0, 0, 0, 0]),
        (union, (A, B), [1, -1, 1, 0, -1, -1]),
        (union, (B, A), [1, 1, 1, 0, -1, -1]),
        (difference, (A, B), [0, -1, 1, 0, 0, 0]),
        (lambda *masks: consensus(masks), (A, B, C), [1, -1, 0, 0, -1, -1]),
        (lambda *masks: consensus(masks, least=3), (A, B, C), [1, 0, 0, 0, 0, 0]),
    ],
)
def test_masks_are_joined_place_by_place(join, masks, expected):
    joined = join(*masks)
    assert joined["w"].tolist() == expected
    assert joined["w"].dtype == torch.int8
    assert torch.equal(joined["b"], masks[0]["b"])
    assert (joined.prunable, joined.parameters) == (("w",), 20)


def test_a_consensus_of_two_is_of_both():
    assert torch.equal(consensus([A, B])["w"], intersection(A, B)["w"])


def test_intersection_and_difference_make_the_first_mask():
    assert torch.equal(union(intersection(A, B), difference(A, B))["w"], A["w"])


def test_a_joined_mask_says_what_it_is_on_its_card():
    card = str(consensus([A, B, C]).generate_model_card())
    assert "It is the consensus (at least 2) of 3 signed masks; no search found it as it is." in card


@pytest.mark.parametrize("least", [1, 4])
def test_a_consensus_of_too_few_or_too_many_is_refused(least):
    with pytest.raises(ValueError, match=f"more than half of the 3 masks and at most all, got {least}"):
        consensus([A, B, C], least=least)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (mask(1, 0), r"not of one network: 1 tensors differ: w \(6,\), \(2,\)"),
        (SignedMask({"v": tensor([1], dtype=torch.int8)}), "3 tensors differ: w, b, v"),
        (SignedMask(dict.fromkeys("bcdefghijklmw", A["w"])), "12 tensors differ: .*, l and 2 more; give masks"),
        (SignedMask(dict(A)), "only one prunes b"),
        (A.binary(), "without signs"),
    ],
)
def test_masks_of_other_networks_are_refused(other, message):
    with pytest.raises(ValueError, match=message):
        likeness(A, other)
