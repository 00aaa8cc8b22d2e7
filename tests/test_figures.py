"""Figures: which are drawn, and what is in them; read from matplotlib's objects, not from pixels."""

import math
import sys

import pytest

from aws_lottery.config import METHODS, Method
from aws_lottery.experiments import figures as drawing
from aws_lottery.experiments import panels
from aws_lottery.experiments.figures import FIGURES
from aws_lottery.experiments.looks import color_of, line_of, marker_of
from aws_lottery.experiments.results import Row, row_from_dict
from aws_lottery.transfers import TRANSFERS, Transfer

pytest.importorskip("matplotlib")
NAMED = {"model": "resnet20", "dataset": "digits", "protocol": "paper"}
LRR, SIGNS, NORM, MASK = ("lrr", "solution"), ("lrr", "signs"), ("lrr", "signs-norm"), ("lrr", "mask")


def typed(rows: list[dict]) -> list[Row]:
    return [row_from_dict(row) for row in rows]


def figures(rows: list[dict]) -> dict:
    return drawing.figures(typed(rows))


def draw(rows: list[dict], folder) -> list:
    return drawing.draw(typed(rows), folder)


def accuracy_figure(rows: list[dict], conditions):
    return panels.accuracy_figure(typed(rows), conditions)


def barrier_figure(rows: list[dict], conditions):
    return panels.barrier_figure(typed(rows), conditions)


def accuracies(method, transfer, index, values) -> list[dict]:
    start = {**NAMED, "kind": "accuracy", "method": method, "round": index, "transfer": transfer}
    left = {"remaining": 0.8 ** (index or 0), "remaining_total": 0.8 ** (index or 0)}
    return [
        {**start, **left, "seed": seed, "data_seed": seed, "before": 10.0, "after": value}
        for seed, value in enumerate(values, start=1)
    ]


def barriers(kind, transfer, index, *errors) -> list[dict]:
    (row,) = accuracies("lrr", transfer, index, [0.0])
    return [{**row, "kind": kind, "seed": n, "alphas": [0.0, 0.5, 1.0], "errors": e} for n, e in enumerate(errors)]


DENSE_ROWS = accuracies(None, "dense", None, [80.0, 84.0])
CURVES = [*DENSE_ROWS, *accuracies("lrr", "solution", 1, [80.0]), *accuracies("lrr", "solution", 10, [70.0, 74.0])]
BARRIERS = [
    *barriers("stability", "solution", 10, [20, 22, 20], [24, 30, 24]),
    *barriers("stability", "signs-norm", 10, [20, 24, 20]),
    *barriers("lmc", "signs-norm", 10, [20, 25, 20]),
    *barriers("lmc", "mask", 10, [20, 65, 20]),
]
ANALYSES = [
    {
        **NAMED,
        "kind": "analysis",
        "method": "aws",
        "round": index,
        "remaining": 0.8**index,
        "sign_flips": None if index == 1 else 0.02,
        "negative_gammas": 0.25,
        "accuracy": 60.0,
        "accuracy_norms_reset": 59.0,
        "layers": {},
    }
    for index in (1, 2)
]


def in_legend(figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def points(line) -> list[tuple[float, float]]:
    return [(round(float(x), 3), float(y)) for x, y in zip(*line.get_data(), strict=True)]


def test_accuracy_is_drawn_against_remaining_falling_to_the_right():
    figure = accuracy_figure(CURVES, [(None, "dense"), LRR])
    (axes,) = figure.axes
    dense, solution = axes.lines
    assert (dense.get_linestyle(), list(dense.get_ydata())) == (":", [82.0, 82.0])
    assert points(solution) == [(0.107, 72.0), (0.8, 80.0)]
    assert solution.get_color() == "tab:blue"
    assert axes.get_xlim()[0] > axes.get_xlim()[1]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.8", "0.11"]
    assert axes.get_xlabel() == "remaining, share of the prunable weights"
    assert axes.get_ylabel() == "test accuracy after training, %"
    assert in_legend(figure) == ["dense", "LRR solution"]
    assert figure.get_suptitle() == "resnet20 on digits; mean ± std over seeds"


def test_bands_are_one_standard_deviation_wide():
    (axes,) = accuracy_figure(CURVES, [(None, "dense"), LRR]).axes
    (dense,), (solution,) = axes.patches, axes.collections
    deviation = math.sqrt(8)  # of 80 and 84, and of 70 and 74: n - 1
    assert dense.get_y() == pytest.approx(82 - deviation)
    assert dense.get_height() == pytest.approx(2 * deviation)
    assert solution.get_paths()[0].vertices[:, 1].min() == pytest.approx(72 - deviation)


def test_one_round_is_drawn_as_conditions_below_one_another():
    figure = figures([*DENSE_ROWS, *accuracies("lrr", "signs", 9, [60.0, 62.0])])["accuracy"]
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["dense", "LRR: fresh + signed mask"]
    assert axes.get_xlabel() == "test accuracy after training, % (0.134 remaining)"
    dots = [line for line in axes.lines if line.get_marker() == "."]
    assert [list(line.get_xdata()) for line in dots] == [[80.0, 84.0], [60.0, 62.0]]


def test_barriers_have_a_panel_for_stability_and_one_for_the_solution():
    figure = figures(BARRIERS)["barriers"]
    stability, lmc = figure.axes
    assert stability.get_title() == "stability against SGD noise, 0.107 remaining"
    assert lmc.get_title() == "path to the solution, 0.107 remaining"
    assert points(stability.lines[0]) == [(0, 22), (0.5, 26), (1, 22)]  # the mean of two seeds
    assert stability.get_ylabel() == "test error, %"
    assert lmc.get_xlabel() == "alpha, from the solution at 0 to A(θ, u) at 1"
    names = ["LRR solution", "LRR: fresh + signed mask, norm kept", "LRR: fresh + mask only"]
    assert in_legend(figure) == names


def test_barriers_of_several_rounds_have_a_row_of_panels_each():
    figure = barrier_figure([*BARRIERS, *barriers("lmc", "mask", 5, [1, 2, 1])], [LRR, NORM, MASK])
    assert [axes.get_title()[-15:] for axes in figure.axes] == ["0.328 remaining"] * 2 + ["0.107 remaining"] * 2


def test_analyses_are_drawn_over_rounds():
    figure = figures(ANALYSES)["analysis"]
    flips, gammas, accuracy = figure.axes
    assert math.isnan(flips.lines[0].get_ydata()[0])  # the first round has none before it
    assert points(gammas.lines[0]) == [(1, 25), (2, 25)]
    assert [points(line) for line in accuracy.lines] == [[(1, 60), (2, 60)], [(1, 59), (2, 59)]]
    assert list(flips.get_xticks()) == [1, 2]
    assert in_legend(figure) == ["AWS", "AWS, norms reset"]


def test_a_figure_of_the_paper_needs_what_it_is_about_and_something_beside():
    assert list(figures(CURVES)) == ["accuracy"]  # dense and LRR solution: no figure of the paper is about these
    norm = accuracies("lrr", "signs-norm", 10, [70.0])
    assert list(figures([*CURVES, *norm])) == ["accuracy", "figure2a"]
    assert list(figures(norm)) == ["accuracy"]
    assert list(figures(BARRIERS)) == ["barriers", "figure2b", "figure2c"]
    assert list(figures([*DENSE_ROWS, *accuracies("gm", "solution", 9, [60.0])])) == ["accuracy", "figure4"]


def test_figure_6_is_figure_3_of_a_vgg():
    rows = [*CURVES, *accuracies("aws", "signs", 10, [70.0])]
    assert list(figures(rows)) == ["accuracy", "figure3a"]
    assert list(figures([{**row, "model": "vgg11_bn"} for row in rows])) == ["accuracy", "figure6a"]


def test_a_condition_whose_trainings_all_failed_is_not_drawn():
    failed = [{k: v for k, v in row.items() if k != "after"} for row in accuracies("lrr", "signs", 10, [0.0])]
    figure = figures([*CURVES, *({**row, "failed": "the loss is nan"} for row in failed)])["accuracy"]
    assert in_legend(figure) == ["dense", "LRR solution"]


def test_a_condition_whose_second_training_alone_succeeded_is_not_drawn():
    (row,) = accuracies("lrr", "signs", 10, [50.0])
    rows = [{**row, "after": None, "failed": "the loss is nan"}, {**row, "data_seed": 1001}]
    assert in_legend(figures([*CURVES, *rows])["accuracy"]) == ["dense", "LRR solution"]
    one_round = [*DENSE_ROWS, *accuracies("lrr", "solution", 10, [70.0]), *rows]
    (axes,) = figures(one_round)["accuracy"].axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["dense", "LRR solution"]


def test_every_condition_has_a_look_of_its_own_in_black_and_white():
    assert len({str(line_of(method)) for method in (None, *METHODS)}) == 1 + len(METHODS)
    assert len({marker_of(transfer) for transfer in TRANSFERS}) == len(TRANSFERS)
    assert {transfer for shown in FIGURES.values() for _, transfer in shown.conditions} <= set(TRANSFERS)


def test_a_row_that_names_no_look_gets_one_of_its_own(monkeypatch):
    for name in ("late", "later"):
        monkeypatch.setitem(METHODS, name, Method(rewind_to=None))
        monkeypatch.setitem(TRANSFERS, name, Transfer(name, None))
    assert len({str(line_of(method)) for method in (None, *METHODS)}) == 1 + len(METHODS)
    assert len({marker_of(transfer) for transfer in TRANSFERS}) == len(TRANSFERS)
    assert color_of("late") != color_of("later")


def test_rows_of_a_method_and_a_transfer_that_are_gone_are_drawn_last():
    gone = accuracies("gone", "gone", 10, [60.0])
    assert in_legend(figures([*gone, *CURVES])["accuracy"]) == ["dense", "LRR solution", "GONE: gone"]


def test_figures_are_written_as_png(tmp_path):
    written = draw([*CURVES, *BARRIERS, *ANALYSES], tmp_path / "plots")
    assert [path.name for path in written] == [
        f"{name}.png" for name in ("accuracy", "barriers", "analysis", "figure2b", "figure2c")
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    assert draw([], tmp_path / "none") == []


def test_without_matplotlib_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'aws-lottery\[plots\]'"):
        draw(CURVES, tmp_path)
