"""Typed rows of results, read and written; and those of the experiments in docs/results, which older code wrote."""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from aws_lottery.experiments.results import Accuracy, Analysis, Line, read_results, row_from_dict, write_results
from aws_lottery.experiments.tables import table

RESULTS = Path(__file__).parent.parent / "docs" / "results"
SHIPPED = sorted(set(RESULTS.glob("*/results.jsonl")) - set(RESULTS.glob("language-model/*")))  # those: test_losses.py
ORIGIN = {"method": "aws", "round": 9, "remaining": 0.134}


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = [
        Accuracy(**ORIGIN, transfer="signs", seed=1, data_seed=1, before=10.0, after=73.0, training={"epochs": 2}),
        Line(**ORIGIN, kind="lmc", transfer="signs", seed=1, alphas=[0.0, 0.5, 1.0], errors=[10.0, 50.0, 20.0]),
        Analysis(
            **ORIGIN,
            sign_flips=None,
            negative_gammas=0.5,
            accuracy=60.0,
            accuracy_norms_reset=59.0,
            layers={"conv1.weight": 0.25},
        ),
    ]
    write_results(tmp_path / "results.jsonl", rows)
    assert read_results(tmp_path / "results.jsonl") == rows
    _, line, _ = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert {name: line[name] for name in ("barrier", "half_difference", "over_line", "over_higher_end")} == {
        "barrier": 35.0,
        "half_difference": 5.0,
        "over_line": 35.0,
        "over_higher_end": 30.0,
    }


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_files_written_before_still_load_with_the_same_figures(path):
    written = [json.loads(line) for line in path.read_text().splitlines()]
    for row, values in zip(read_results(path), written, strict=True):
        assert {name: getattr(row, name) for name in ORIGIN} == {name: values[name] for name in ORIGIN}
        if isinstance(row, Accuracy):
            assert (row.before, row.after) == (values["before"], values["after"])
        elif isinstance(row, Line):
            assert row.barrier.barrier == pytest.approx(values["barrier"])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_the_tables_in_the_docs_are_those_of_the_rows_beside_them(path):
    shown = (path.parent / "README.md").read_text().splitlines()
    lines = [line for line in table(read_results(path)).splitlines() if line.startswith("|")]
    assert [line for line in lines if line not in shown] == []


def test_the_planned_comparison_of_three_pairs_of_searches_follows_from_its_rows():
    folder = RESULTS / "tiny32-mobilenetv2"
    shown, differences = (folder / "README.md").read_text(), []
    for pair in ("results", "results-b", "results-c"):
        signs = [row for row in read_results(folder / f"{pair}.jsonl") if getattr(row, "transfer", None) == "signs"]
        after = {method: [row.after for row in signs if row.method == method] for method in ("aws", "lrr")}
        cells = [", ".join(f"{value:.2f}" for value in values) for values in after.values()]
        differences.append(np.mean(after["aws"]) - np.mean(after["lrr"]))
        assert f"| {cells[0]} | {cells[1]} | {differences[-1]:.2f} |" in shown
    mean, interval, test = verdict_on(differences)
    assert f"**mean {mean}**" in shown
    assert test in shown
    assert interval == ("1.2", "7.9")


def verdict_on(differences: Sequence[float]) -> tuple[str, tuple[str, str], str]:
    """Mean and standard deviation, 95 % interval, and the test, as a page writes them."""
    test = ttest_1samp(differences, 0)
    low, high = test.confidence_interval()
    return (
        f"{np.mean(differences):.1f} ± {np.std(differences, ddof=1):.1f}",
        (f"{low:.1f}", f"{high:.1f}"),
        f"one-sample t = {test.statistic:.2f} with {test.df:.0f} degrees of freedom, p = {test.pvalue:.3f}",
    )


def means_of_pairs() -> dict[str, dict[tuple[str | None, str], float]]:
    """Of each pair of searches of MobileNetV2, the mean accuracy of its final trainings by method and start."""
    pairs = {}
    for pair, name in zip("abc", ("results", "results-b", "results-c"), strict=True):
        after: dict[tuple[str | None, str], list[float]] = {}
        for row in read_results(RESULTS / "tiny32-mobilenetv2" / f"{name}.jsonl"):
            if isinstance(row, Accuracy):
                after.setdefault((row.method, row.transfer), []).append(row.after)
        pairs[pair] = {start: float(np.mean(values)) for start, values in after.items()}
    return pairs


def cells_of(values: list[float]) -> str:
    return " | ".join(f"{value:.2f}" for value in values)


def spreads_of(differences: list[list[float]]) -> list[str]:
    means, spreads = np.mean(differences, 0), np.std(differences, 0, ddof=1)
    return [f"{mean:.2f} ± {spread:.2f}" for mean, spread in zip(means, spreads, strict=True)]


def test_what_keeping_the_normalization_does_in_three_pairs_of_searches_follows_from_its_rows():
    shown, gains = (RESULTS / "tiny32-mobilenetv2" / "README.md").read_text(), []
    for pair, means in means_of_pairs().items():
        cells = []
        for method in ("aws", "lrr"):
            fresh, kept = means[method, "signs"], means[method, "signs-norm"]
            cells += [fresh, kept, kept - fresh]
        gains.append([cells[2], cells[5]])
        assert f"| {pair} | {cells_of(cells)} |" in shown
    aws, lrr = spreads_of(gains)
    assert f"| all | | | {aws} | | | {lrr} |" in shown


def test_the_lead_of_the_signs_over_their_bare_masks_in_three_pairs_of_searches_follows_from_its_rows():
    shown, differences = (RESULTS / "tiny32-mobilenetv2" / "README.md").read_text(), []
    for pair, means in means_of_pairs().items():
        cells = []
        for method in ("aws", "lrr"):
            signs, mask = means[method, "signs"], means[method, "mask"]
            cells += [signs, mask, signs - mask]
        differences.append([cells[2], cells[5], cells[1] - cells[4], cells[2] - cells[5]])
        assert f"| {pair} | {cells_of([*cells, *differences[-1][2:]])} |" in shown
    aws, lrr, masks, lead = spreads_of(differences)
    assert f"| all | | | {aws} | | | {lrr} | {masks} | {lead} |" in shown
    mean, interval, test = verdict_on([row[-1] for row in differences])
    assert f"**mean of the lead of the signs {mean}**" in shown
    assert test in shown
    assert interval == ("0.4", "8.4")


def test_solutions_and_dense_networks_beside_the_signs_in_three_pairs_of_searches_follow_from_their_rows():
    shown, differences = (RESULTS / "tiny32-mobilenetv2" / "README.md").read_text(), []
    for pair, means in means_of_pairs().items():
        dense, cells, of_signs = means[None, "dense"], [], []
        for method in ("aws", "lrr"):
            solution, signs = means[method, "solution"], means[method, "signs"]
            cells += [solution, signs]
            of_signs += [signs - solution, signs - dense]
        differences.append(of_signs)
        assert f"| {pair} | {cells_of([dense, *cells, *of_signs])} |" in shown
    assert f"| all | | | | | | {' | '.join(spreads_of(differences))} |" in shown


def test_the_comparison_over_four_new_pairs_of_searches_follows_from_its_rows():
    folder, differences = RESULTS / "tiny32-mobilenetv2", []
    shown = (folder / "README.md").read_text()
    for pair in "defg":
        rows = [row for row in read_results(folder / f"results-{pair}.jsonl") if isinstance(row, Accuracy)]
        after = {(row.method, row.round, row.transfer): row.after for row in rows}
        cells = []
        for index in (6, 9):
            aws, lrr = after["aws", index, "signs"], after["lrr", index, "signs"]
            cells += [aws, lrr, aws - lrr]
        differences.append([cells[2], cells[5]])
        assert f"| {pair} | {cells_of(cells)} |" in shown
    six, nine = spreads_of(differences)
    assert f"| all | | | {six} | | | {nine} |" in shown
    mean, interval, test = verdict_on([six for six, _ in differences])
    assert f"**mean of the four {mean}**" in shown
    assert test in shown
    assert interval == ("2.1", "5.0")


def test_dense_networks_that_trained_as_long_as_search_and_final_training_are_those_of_their_rows():
    folder, differences = RESULTS / "tiny32-mobilenetv2", []
    shown = (folder / "README.md").read_text()
    for pair in "defg":
        rows = [row for row in read_results(folder / f"results-{pair}.jsonl") if isinstance(row, Accuracy)]
        longer = read_results(folder / f"dense-48-epochs-{pair}.jsonl")
        (dense,) = [row for row in longer if isinstance(row, Accuracy)]
        signs = {row.method: row.after for row in rows if row.transfer == "signs" and row.round == 6}
        ahead = [signs[method] - dense.after for method in ("aws", "lrr")]
        assert dense.training["epochs"] == 8 + 6 * 4 + 16
        assert f"| {pair} | {cells_of([dense.after, signs['aws'], ahead[0], signs['lrr'], ahead[1]])} |" in shown
        differences.append(ahead)
    aws, lrr = spreads_of(differences)
    assert f"| all | | | {aws} | | {lrr} |" in shown


def test_the_differences_that_tell_signs_and_masks_apart_follow_from_their_rows():
    folder = RESULTS / "tiny32-mobilenetv2"
    shown, after = (folder / "README.md").read_text(), {}
    trainings = [row for row in read_results(folder / "results.jsonl") if isinstance(row, Accuracy)]
    for row in sorted(trainings, key=lambda row: row.seed):
        after.setdefault((row.method, row.transfer), []).append(row.after)

    def difference(first: tuple, second: tuple) -> str:
        values = np.subtract(after[first], after[second])
        assert len(values) == 3
        return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"

    for line, of, less in (
        ("signed mask - mask only", "signs", "mask"),
        ("signed mask, norm kept - signed mask", "signs-norm", "signs"),
        ("solution - signed mask", "solution", "signs"),
    ):
        cells = [difference((method, of), (method, less)) for method in ("aws", "lrr")]
        assert f"| {line} | {cells[0]} | {cells[1]} |" in shown
    dense = [difference((method, "signs"), (None, "dense")) for method in ("aws", "lrr")]
    assert f"| signed mask - dense | {dense[0]} | {dense[1]} |" in shown


def test_the_table_of_masks_beyond_their_search_is_that_of_its_rows():
    shown = (RESULTS / "reuse" / "README.md").read_text()
    groups: dict[tuple[str, str], list[float]] = {}
    for line in (RESULTS / "reuse" / "trainings.jsonl").read_text().splitlines():
        row = json.loads(line)
        groups.setdefault((row["question"], row["start"]), []).append(row["after"])
    assert len(groups) == 24
    for (question, start), after in groups.items():
        (line,) = [line for line in shown.splitlines() if line.startswith(f"| {question} | {start} |")]
        assert line.endswith(f"| {np.mean(after):.2f} ± {np.std(after, ddof=1):.2f} | 3 |")


def test_there_are_files_written_before():
    assert len(SHIPPED) >= 2


def test_a_line_that_is_no_row_is_named(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"kind": "analysis"}\n')
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 1: a row of kind 'analysis' needs sign_flips")):
        read_results(path)
    path.write_text("{\n")
    with pytest.raises(ValueError, match="line 1: not JSON"):
        read_results(path)
    with pytest.raises(
        ValueError, match="'kind' must be one of accuracy, stability, between-inits, lmc, analysis, got 'speed'"
    ):
        row_from_dict({"kind": "speed"})


LINE = {"kind": "lmc", **ORIGIN, "transfer": "signs", "seed": 1, "alphas": [0.0, 1.0], "errors": [10, 20.0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": ["lmc"]}, r"'kind' must be one of"),
        ({"seed": "1"}, r"'seed' is '1', expected <class 'int'>"),
        ({"seed": True}, r"'seed' is True"),
        ({"errors": [10.0, None]}, r"'errors' is \[10.0, None\]"),
        ({"errors": {}}, r"'errors' is {}"),
        ({"method": 3}, r"'method' is 3, expected str | None"),
        ({"remaining": None}, r"'remaining' is None"),
    ],
)
def test_a_value_of_another_type_is_named(change, message):
    assert row_from_dict(LINE).errors == [10, 20.0]
    with pytest.raises(ValueError, match=message):
        row_from_dict({**LINE, **change})


def test_no_flipped_bit_of_a_file_of_results_changes_a_row(tmp_path):
    path, rows = tmp_path / "results.jsonl", [row_from_dict(LINE), row_from_dict({**LINE, "seed": 2})]
    write_results(path, rows)
    data = path.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(data)), 500):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            found = read_results(path)
        except ValueError as error:
            assert str(error).startswith(str(path))  # noqa: PT017
        else:
            assert found == rows


def test_rows_that_are_missing_are_noticed_and_files_can_be_put_together(tmp_path):
    path, rows = tmp_path / "results.jsonl", [row_from_dict(LINE), row_from_dict({**LINE, "seed": 2})]
    write_results(path, rows)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0])
    with pytest.raises(ValueError, match=r"results.jsonl: 1 rows are there of files of 2; it was cut off"):
        read_results(path)
    path.write_text("")
    with pytest.raises(ValueError, match=r"results.jsonl: it holds no rows; was it cut off"):
        read_results(path)
    path.write_text("".join([*lines, *lines]))
    assert read_results(path) == [*rows, *rows]


def test_a_row_whose_name_of_the_checksum_is_damaged_is_no_row_of_before_there_were_any(tmp_path):
    path = tmp_path / "results.jsonl"
    write_results(path, [Accuracy(**ORIGIN, transfer="signs", seed=1, data_seed=1, before=10.0, after=73.0)])
    for name in ("sha256", "checked_by"):
        path.write_text(path.read_text().replace(f'"{name}":', '"sha056":'))
        with pytest.raises(ValueError, match="it is damaged, or was edited"):
            read_results(path)
        write_results(path, [Accuracy(**ORIGIN, transfer="signs", seed=1, data_seed=1, before=10.0, after=73.0)])
