"""Which claims are made of which rows, and how a verdict on them is shown."""

import pytest

from aws_lottery.experiments.claims import Claim, judge
from aws_lottery.experiments.results import Accuracy, Line, Row
from aws_lottery.experiments.verdict import Verdict, eval_results
from aws_lottery.experiments.winning_sign import Margins, claims_of

FAILED = None
USUAL = {"accuracy": 1.0, "barrier": 2.0, "level": 0.05}


def trained(transfer: str, *after: float | None) -> list[Row]:
    """A training for each of the seeds 1, 2, ...; dense is no mask's."""
    own = {} if transfer == "dense" else {"method": "aws", "remaining": 0.1, "signed_mask": "0123456789abcdef"}
    return [
        Accuracy(
            transfer=transfer,
            seed=seed,
            data_seed=seed,
            before=10.0,
            after=value,
            failed="the loss is nan" if value is None else None,
            **own,
        )
        for seed, value in enumerate(after, start=1)
    ]


def lines(kind, *errors: tuple[float, float, float]) -> list[Row]:
    return [
        Line(kind=kind, transfer="signs", seed=seed, alphas=(0, 0.5, 1), errors=values, method="aws", remaining=0.1)
        for seed, values in enumerate(errors, start=1)
    ]


def claims(*rows: list[Row], **margins) -> dict[str, Claim]:
    whole = [row for group in rows for row in group]
    return {claim.name: claim for claim in claims_of(whole, chance=10.0, margins=Margins(**{**USUAL, **margins}))}


SIGNS = trained("signs", 70.0, 72.0)
DENSE = trained("dense", 71.0, 72.5)


def test_accuracies_are_compared_by_initialization_against_the_margin():
    made = claims(SIGNS, DENSE, trained("mask", 60.0, 50.0), accuracy=1.5)
    assert (made["dense"].values, made["dense"].side, made["dense"].bound) == ((-1.0, -0.5), "above", -1.5)
    assert (made["mask"].values, made["mask"].side, made["mask"].bound) == ((10.0, 22.0), "above", 1.5)
    assert "random-signs" not in made  # not trained


def test_a_barrier_is_to_be_below_its_margin_and_lmc_is_claimed_only_where_the_solution_was_trained():
    rows = [SIGNS, DENSE, lines("stability", (30.0, 31.0, 30.0), (28.0, 40.0, 30.0))]
    made = claims(*rows, barrier=3.0)
    assert (made["stability"].values, made["stability"].side, made["stability"].bound) == ((1.0, 11.0), "below", 3.0)
    assert made["between-inits"].values == ()
    assert "lmc" not in made
    assert "lmc" in claims(*rows, trained("solution", 73.0, 73.0))


def test_a_second_training_from_a_start_is_in_no_difference():
    (second,) = trained("signs", 99.0)
    again = Accuracy(**{**vars(second), "data_seed": 1001})
    assert claims(SIGNS, [again], DENSE)["dense"].values == (-1.0, -0.5)


def test_a_training_that_failed_counts_as_guessing_and_is_named():
    made = claims(trained("signs", 70.0, FAILED), DENSE, trained("mask", FAILED, 50.0))
    assert made["mask"].values == (60.0, -40.0)
    assert made["mask"].notes == (
        "signs with seed 2 failed and counts as guessing",
        "mask with seed 1 failed and counts as guessing",
    )
    assert made["dense"].values == (-1.0, -62.5)
    assert made["stability"].notes[1] == "seed 2 has no line"


def test_a_dense_network_that_has_learned_nothing_is_no_yardstick():
    made = claims(trained("signs", 10.0, 72.0), trained("dense", 10.5, 72.5))
    assert made["dense"].values == (-0.5,)
    assert made["dense"].notes == ("seed 1 is left out: the dense network has learned nothing",)
    assert claims(trained("signs", FAILED), trained("dense", FAILED))["dense"].values == ()


def test_networks_that_have_learned_nothing_have_no_barrier():
    made = claims(SIGNS, DENSE, lines("stability", (90.0, 90.0, 90.0), (28.0, 28.5, 28.0)))
    assert made["stability"].values == (0.5,)
    assert made["stability"].notes == ("seed 1 is left out: an end has learned nothing",)


def test_one_initialization_has_no_other_to_be_connected_to_and_that_is_no_failure():
    made = claims(trained("signs", 70.0), trained("dense", 71.0))
    assert (made["between-inits"].values, made["between-inits"].notes) == ((), ())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"accuracy": -1.0}, "the margin of accuracy must be 0 or more points, got -1.0"),
        ({"barrier": float("nan")}, "the margin of barrier must be 0 or more points, got nan"),
        ({"level": 5}, r"level must be in \(0, 1\), got 5"),
    ],
)
def test_margins_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Margins(**{**USUAL, **wrong})


def test_a_verdict_is_a_table_with_notes_and_what_its_figures_mean():
    gain = {"name": "mask", "statement": "the signs help", "side": "above", "bound": 1.0, "values": (2.0, 2.5, 3.0)}
    line = {"name": "lmc", "statement": "connected", "side": "below", "bound": 2.0, "values": (1.0,)}
    made = [Claim(**gain), Claim(**line, notes=("seed 2 has no line",))]
    shown = str(Verdict(findings=judge(made), rows=[], margins=Margins(**USUAL), chance=10.0))
    # t = 1.5 * sqrt(3) / 0.5 = 5.2 of 2 degrees of freedom: p = 0.035, twice that; 6.2 * 0.5 / sqrt(3) = 1.79
    needed = "**not enough seeds** (about 4 if they go on so)"
    assert f"| **mask**: the signs help | above 1 | 2.50 ± 0.50 | 0.71 to 4.29 | 3 | 0.07 | {needed} |" in shown
    assert "| **lmc**: connected | below 2 | 1.00 ± - | - | 1 | - | **not enough seeds** |" in shown
    assert "\n\n- lmc: seed 2 has no line.\n\n" in shown
    assert "corrected for 2 claims" in " ".join(shown.split())
    assert "unless it is below 0.05. The intervals hold together with 95 %" in " ".join(shown.split())


def verdict_on(*rows: list[Row]) -> Verdict:
    whole = [row for group in rows for row in group]
    return Verdict(findings=[], rows=whole, margins=Margins(**USUAL), chance=10.0)


def test_a_benchmark_gets_the_mean_over_the_trainings_with_the_signs_that_did_not_fail():
    (second,) = trained("signs", 99.0)
    again = Accuracy(**{**vars(second), "data_seed": 1001})
    text = eval_results(verdict_on(trained("signs", 70.0, FAILED, 72.5), [again], DENSE), "org/shapes", "default")
    assert "value: 71.25" in text
    assert "id: org/shapes" in text
    assert "task_id: default" in text
    assert "mean of 2 initializations" in " ".join(text.split())
    with pytest.raises(ValueError, match="no result for the benchmark org/shapes: all trainings with the signs failed"):
        eval_results(verdict_on(trained("signs", FAILED), DENSE), "org/shapes", "default")
