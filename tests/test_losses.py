"""Tables, verdicts and figures of networks that are measured by a loss, by eye."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest

from aws_lottery.experiments.losses import (
    ANALYSIS_LEGEND,
    BARRIER_LEGEND,
    LEGEND,
    Ahead,
    Loss,
    LossAnalysis,
    LossLine,
    Row,
    findings,
    first_losses,
    loss_figures,
    loss_report,
    loss_row,
)
from aws_lottery.experiments.results import Start

SHIPPED = Path(__file__).parent.parent / "docs" / "results" / "language-model"
SIGNS, MASK = Start(6, "aws", "signs"), Start(6, "aws", "mask")
AHEAD = Ahead("signs", "the signs do better than the mask alone", SIGNS, MASK)


def loss(start: Start, seed: int, after: float, data_seed: int | None = None) -> Loss:
    remaining = 1.0 if start.method is None else 0.118
    values = {"seed": seed, "data_seed": data_seed or seed, "before": math.log(500), "after": after}
    kept = None if start.method is None else 0.75
    return Loss(**start._asdict(), remaining=remaining, signs_kept=kept, **values)


def line(kind: str, losses: list[float]) -> LossLine:
    return LossLine(**SIGNS._asdict(), remaining=0.118, seed=1, kind=kind, alphas=[0, 0.5, 1], losses=losses)


ROWS: list[Row] = [
    *(loss(MASK, seed, math.log(10 * seed)) for seed in (1, 2, 3)),
    *(loss(SIGNS, seed, math.log(5 * seed)) for seed in (3, 2, 1)),
    loss(SIGNS, 1, 9.0, data_seed=1001),  # the second training for stability: in no mean
    loss(Start(None, None, "dense"), 1, math.log(4)),
    line("lmc", [1.0, 3.0, 2.0]),
]


def test_perplexities_are_means_over_seeds_of_the_first_data_orders():
    assert [row.seed for row in first_losses(ROWS)[SIGNS]] == [1, 2, 3]
    table = loss_report(ROWS, [])
    assert "| dense | - | 1.000 | 500.00 ± - | 4.00 ± - | 1.39 ± - | - | 1 |" in table
    assert (
        "| AWS: fresh + signed mask | 6 | 0.118 | 500.00 ± 0.00 | 10.00 ± 5.00 | 2.21 ± 0.56 | 75.00 ± 0.00 | 3 |"
        in table
    )
    assert "search | round" not in table  # there is no analysis
    assert LEGEND in table
    assert BARRIER_LEGEND in table
    assert ANALYSIS_LEGEND not in table
    assert BARRIER_LEGEND not in loss_report(ROWS[:-1], [])


def test_a_lower_loss_with_every_seed_is_ahead():
    (found,) = findings(ROWS, [AHEAD])
    assert found.claim.values == pytest.approx([math.log(2)] * 3)  # half the perplexity
    assert found.verdict == "holds"
    (reverse,) = findings(ROWS, [AHEAD._replace(one=MASK, other=SIGNS)])
    assert reverse.verdict == "does not hold"
    assert "| above 0 | 0.693, 0.693, 0.693 |" in loss_report(ROWS, [AHEAD])


def compared(*pairs: tuple[float, float]) -> list[Row]:
    """Losses with the mask alone and with the signs, for each of the seeds 1, 2, ..."""
    starts = enumerate(pairs, start=1)
    return [loss(start, seed, after) for seed, pair in starts for start, after in zip((MASK, SIGNS), pair, strict=True)]


@pytest.mark.parametrize(
    ("rows", "cells"),
    [
        # t = (1.5 - 0.5) * sqrt(3) / 0.5 = 3.46 of 2 degrees of freedom: p = 0.074; 4.30 * 0.5 / sqrt(3) = 1.242
        (
            compared((2.0, 1.0), (2.5, 1.0), (3.0, 1.0)),
            "above 0.5 | 1.000, 1.500, 2.000 | 0.258 to 2.742 | 0.074 | not enough seeds |",
        ),
        (compared((2.0, 1.0)), "above 0.5 | 1.000 | - | - | not enough seeds |"),
        ([], "above 0.5 | - | - | - | not enough seeds |"),
    ],
)
def test_a_verdict_is_shown_with_its_figures(rows, cells):
    report = loss_report(rows, [AHEAD._replace(bound=0.5)])
    assert f"| {AHEAD.statement} | {cells}" in report
    assert "\n\n\n" not in report
    assert AHEAD.statement not in loss_report(rows, [])


def test_trainings_are_compared_with_those_of_their_own_seed_alone():
    (found,) = findings(
        [row for row in ROWS if not (isinstance(row, Loss) and row.transfer == "mask" and row.seed > 1)], [AHEAD]
    )
    assert len(found.claim.values) == 1
    assert found.verdict == "not enough seeds"
    (without,) = findings([], [AHEAD])
    assert without.claim.values == ()


def test_the_barrier_in_loss_tells_a_hump_from_ends_that_differ():
    assert (
        "| LMC | AWS: fresh + signed mask | 6 | 0.118 | 1.50 ± - | 1.50 ± - | 1.00 ± - | 2.00 ± - | 1.00 ± - | 1 |"
        in (loss_report(ROWS, []))
    )


def test_a_network_is_shown_as_its_search_left_it():
    row = LossAnalysis(
        method="aws",
        round=1,
        remaining=0.7,
        sign_flips=None,
        negative_scales=0.125,
        loss=2.5,
        loss_norms_reset=2.75,
        layers={"q": 0.75, "k": 0.5},
    )
    report = loss_report([row], [])
    assert "| AWS | 1 | 0.700 | - | 12.50 | 2.500 | 2.750 | 0.750 | 0.500 |" in report
    assert ANALYSIS_LEGEND in report


@pytest.mark.parametrize("row", [ROWS[0], ROWS[-1]])
def test_a_row_is_read_as_it_was_kept(row):
    assert loss_row(asdict(row)) == row


def test_a_row_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="'kind' must be one of loss, stability, lmc, analysis, got 'accuracy'"):
        loss_row({"kind": "accuracy"}, "results.jsonl, line 3")


def test_the_figures_have_a_panel_for_each_round_and_the_line_to_the_solution():
    other = [loss(SIGNS._replace(round=3), 1, math.log(6)), line("stability", [9.0, 9.0, 9.0])]
    drawn = loss_figures([*ROWS, *other], "llama")
    assert list(drawn) == ["loss", "barriers"]
    above, below = drawn["loss"].axes
    assert [tick.get_text() for tick in above.get_yticklabels()] == [
        "dense",
        "AWS: fresh + signed mask",
        "AWS: fresh + mask only",
    ]
    assert [tick.get_text() for tick in below.get_yticklabels()] == ["dense", "AWS: fresh + signed mask"]
    dots = [list(line.get_xdata()) for line in above.lines if line.get_marker() == "."]
    assert dots[1] == pytest.approx([5, 10, 15])
    (axes,) = drawn["barriers"].axes
    assert list(axes.lines[0].get_ydata()) == [1.0, 3.0, 2.0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "alpha, from the solution at 0 to A(θ, u) at 1",
        "test loss, nats",
    )
    assert [text.get_text() for text in drawn["barriers"].legends[0].get_texts()] == ["AWS: fresh + signed mask"]
    (alone,) = loss_figures([loss(Start(None, None, "dense"), 1, math.log(4))], "llama")["loss"].axes
    assert [tick.get_text() for tick in alone.get_yticklabels()] == ["dense"]
    assert list(loss_figures(ROWS[:3], "llama")) == ["loss"]


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.jsonl")), ids=lambda path: path.stem)
def test_the_tables_in_the_docs_are_those_of_the_rows_beside_them(path):
    def figures(text: str) -> list[list[str]]:  # without the names of starts, as the recipe gives them to its own
        rows = [line.split("|") for line in text.splitlines() if line.startswith("|")]
        return [[cell for cell in row if any(map(str.isdigit, cell)) and ":" not in cell] for row in rows]

    rows = [loss_row(json.loads(line), path) for line in path.read_text().splitlines()]
    shown, measured = figures((SHIPPED / "README.md").read_text()), figures(loss_report(rows, []))
    assert len(measured) > 3
    assert [line for line in measured if line not in shown] == []
