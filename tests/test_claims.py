"""Claims: which values lead to which verdict."""

import math

import pytest
from scipy.stats import ttest_1samp

from aws_lottery.experiments.claims import Claim, holm, judge


def claim(*values: float, side="above", bound=1.0, name="gain") -> Claim:
    return Claim(name=name, statement="signs help", values=values, side=side, bound=bound)


def verdict(*values: float, **options) -> str:
    return judge([claim(*values, **options)])[0].verdict


def test_a_mean_far_beyond_its_bound_holds_far_on_the_other_side_does_not_and_near_it_takes_more_seeds():
    assert verdict(8.0, 9.0, 10.0) == "holds"
    assert verdict(0.1, 0.0, -0.1) == "does not hold"
    assert verdict(0.0, 1.5, 3.0) == "not enough seeds"


def test_a_claim_below_a_bound_is_judged_the_other_way_round():
    assert verdict(0.1, 0.0, 0.2, side="below", bound=2.0) == "holds"
    assert verdict(30.0, 31.0, 33.0, side="below", bound=2.0) == "does not hold"


def test_not_inferior_by_the_margin_holds_though_the_mean_is_lower():
    assert verdict(-0.5, -0.4, -0.6, bound=-1.0) == "holds"
    assert verdict(-2.5, -2.4, -2.6, bound=-1.0) == "does not hold"


def test_one_seed_or_none_is_never_enough():
    one, none = judge([claim(50.0), claim()])
    assert (one.verdict, one.mean, one.p, one.low) == ("not enough seeds", 50.0, None, None)
    assert (none.verdict, none.mean, none.seeds_needed) == ("not enough seeds", None, None)


def test_the_p_value_is_that_of_scipy_t_test_and_its_interval_that_of_the_whole_family():
    values = [2.0, 3.5, 1.0, 4.0]
    (alone,) = judge([claim(*values)])
    reference = ttest_1samp(values, 1.0)
    assert alone.p == pytest.approx(reference.pvalue)
    assert (alone.low, alone.high) == pytest.approx(tuple(reference.confidence_interval(0.95)))
    first, _ = judge([claim(*values), claim(0.0, 1.0)])
    assert (first.low, first.high) == pytest.approx(tuple(reference.confidence_interval(0.975)))


def test_holm_multiplies_the_smallest_by_their_number_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_with_more_claims_each_needs_more_evidence():
    values = (2.0, 3.0, 4.0)  # t = 3.2 * sqrt(3), p = 0.031
    assert verdict(*values, bound=-0.2) == "holds"
    assert [f.verdict for f in judge([claim(*values, bound=-0.2), claim(0.0)])] == ["not enough seeds"] * 2


def test_two_equal_values_are_no_more_exact_than_the_test_set():
    same = claim(2.5, 2.5)
    assert judge([same], resolution=0.0)[0].verdict == "holds"
    coarse = judge([same], resolution=100 / 360)[0]
    assert (coarse.verdict, coarse.std) == ("not enough seeds", 0.0)
    assert judge([claim(1.0, 1.0)])[0].p == 1.0  # at the bound


def test_how_many_seeds_would_do_is_told_where_that_is_not_decided():
    (near,) = judge([claim(0.0, 2.0, 4.0)])  # 1 from the bound, spread 2: t of 18 values is 2.12, 17 degrees have 2.11
    assert near.seeds_needed == 18
    beside, _ = judge([claim(0.0, 2.0, 4.0), claim(0.0)])  # at half the level: 2.40 * 2 is below the root of 24
    assert beside.seeds_needed == 24
    assert judge([claim(1.0, 0.9, 1.1)])[0].seeds_needed is None  # the mean is on the bound
    assert judge([claim(0.9, 1.0, 1.11)])[0].seeds_needed is None  # more than a thousand
    assert judge([claim(9.0, 9.1, 9.2)])[0].seeds_needed is None  # decided


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_refused_with_its_claim(value):
    with pytest.raises(ValueError, match="claim 'gain': values must be finite"):
        claim(1.0, value)


@pytest.mark.parametrize("level", [5, 1, 0])
def test_a_level_that_is_no_probability_is_refused(level):
    with pytest.raises(ValueError, match=rf"level must be in \(0, 1\), got {level}"):
        judge([claim(1.0)], level=level)
