"""The paper's figures from the rows of a comparison (results.jsonl). Needs matplotlib, the extra `plots`."""

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .report import Row, Values, first_trainings, label, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Condition = tuple[str | None, str]  # method, transfer
DENSE: Condition = (None, "dense")
LRR, AWS, GM = ("lrr", "solution"), ("aws", "solution"), ("gm", "solution")
LRR_SIGNS, AWS_SIGNS, LRR_MASK = ("lrr", "signs"), ("aws", "signs"), ("lrr", "mask")
LRR_NORM, LRR_SHIFTED = ("lrr", "signs-norm"), ("lrr", "signs-norm-shifted")

# In black and white the line tells the method and the marker the start; colors are those of the paper's Figure 3.
LINES: dict[str | None, Any] = {
    None: ":",
    "aws": "-",
    "lrr": "--",
    "gm": "-.",
    "imp": (0, (6, 1, 1, 1, 1, 1)),
    "wr": (0, (8, 3)),
}
STARTS = {  # transfer -> marker, color
    "dense": ("", "black"),
    "solution": ("o", "tab:gray"),
    "signs": ("^", "tab:brown"),
    "mask": ("x", "tab:purple"),
    "signs-norm": ("D", "tab:cyan"),
    "signs-norm-signs": ("<", "tab:olive"),
    "signs-norm-shifted": ("P", "tab:pink"),
    "random-signs": ("*", "darkgoldenrod"),
    "shuffled-mask": ("+", "slategray"),
    "magnitudes": ("s", "black"),
}
COLORS = {LRR: "tab:blue", AWS: "tab:green", LRR_SIGNS: "tab:orange", AWS_SIGNS: "tab:red"}


class Shown(NamedTuple):
    """A figure of the paper. Drawn if there are rows for two of its conditions, one of them what it is `about`."""

    kind: str
    conditions: tuple[Condition, ...]
    about: Condition
    networks: str = ""  # a regular expression

    def conditions_in(self, rows: Sequence[Row]) -> list[Condition]:
        """Those to draw; none if it is not to be drawn."""
        chosen = [condition for condition in self.conditions if condition in _conditions(rows, self.kind)]
        return chosen if self.about in chosen and len(chosen) > 1 and re.match(self.networks, title(rows)) else []


_FIGURE_2 = ((DENSE, LRR, LRR_SIGNS, LRR_NORM, LRR_MASK), LRR_NORM)
_FIGURE_3 = ((DENSE, LRR, AWS, LRR_SIGNS, AWS_SIGNS, LRR_MASK), AWS_SIGNS)
FIGURES = {
    "figure2a": Shown("accuracy", *_FIGURE_2),
    "figure2b": Shown("stability", *_FIGURE_2),
    "figure2c": Shown("lmc", *_FIGURE_2),
    "figure3a": Shown("accuracy", *_FIGURE_3, "(?!vgg)"),
    "figure3b": Shown("stability", *_FIGURE_3, "(?!vgg)"),
    "figure3c": Shown("lmc", *_FIGURE_3, "(?!vgg)"),
    "figure4": Shown("accuracy", (DENSE, AWS, AWS_SIGNS, GM), GM),
    "figure5": Shown("accuracy", (DENSE, LRR, LRR_SIGNS, LRR_SHIFTED), LRR_SHIFTED),
    "figure6a": Shown("accuracy", *_FIGURE_3, "vgg"),
    "figure6b": Shown("stability", *_FIGURE_3, "vgg"),
    "figure6c": Shown("lmc", *_FIGURE_3, "vgg"),
}
BARRIERS = {  # kind -> title of its panel, its x axis
    "stability": ("stability against SGD noise", "alpha, from A(θ, u') at 0 to A(θ, u) at 1"),
    "lmc": ("linear path to the solution", "alpha, from the solution at 0 to A(θ, u) at 1"),
}
ANALYSES = {  # key -> y axis, factor
    "sign_flips": ("sign flips since the round before, %", 100.0),
    "negative_gammas": ("normalization scales below 0, %", 100.0),
    "accuracy": ("test accuracy when pruned, %", 1.0),
}


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw the `figures` of one comparison, each to NAME.png.

    Raises: ModuleNotFoundError that says what to install.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures(rows).items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=150)
    return paths


def figures(rows: Sequence[Row]) -> dict[str, "Figure"]:
    """Name -> what can be drawn: `accuracy`, `barriers` and `analysis` with all rows, and FIGURES of the paper."""
    made = {}
    if found := _conditions(rows, "accuracy"):
        made["accuracy"] = accuracy_figure(rows, found)
    if found := _conditions(rows, *BARRIERS):
        made["barriers"] = barrier_figure(rows, found)
    if any(row["kind"] == "analysis" for row in rows):
        made["analysis"] = analysis_figure(rows)
    for name, shown in FIGURES.items():
        if found := shown.conditions_in(rows):
            accuracy = shown.kind == "accuracy"
            made[name] = accuracy_figure(rows, found) if accuracy else barrier_figure(rows, found, (shown.kind,))
    return made


def accuracy_figure(rows: Sequence[Row], conditions: Sequence[Condition]) -> "Figure":
    """Accuracy after training against remaining, falling to the right; if there is one round only, a line for each
    condition with a dot for each seed."""
    curves: dict[Condition, dict[float, Values]] = defaultdict(dict)
    for start, group in first_trainings(rows).items():
        if values := [row["after"] for row in group if "after" in row]:
            curves[start.method, start.transfer][group[0]["remaining"]] = values
    curves = {condition: curves[condition] for condition in conditions}
    shares = sorted({x for condition in conditions if condition != DENSE for x in curves[condition]}, reverse=True)
    rounds = {start.round for start in first_trainings(rows) if start.round}
    figure, ((axes,),) = _panels(rows, 1, 1)
    (_dots if len(rounds) < 2 else _against_remaining)(axes, curves, shares)
    return figure


def _against_remaining(axes: "Axes", curves: dict[Condition, dict[float, Values]], shares: Sequence[float]) -> None:
    for condition, points in curves.items():
        if condition == DENSE:
            (values,) = points.values()
            axes.axhline(statistics.fmean(values), **_look(condition), label=label(*condition))
            axes.axhspan(*_band(values), color=_look(condition)["color"], alpha=0.12, linewidth=0)
        else:
            _curve(axes, sorted(points), [points[x] for x in sorted(points)], condition)
    axes.set_xscale("log", base=2)
    axes.set_xticks(shares[:: math.ceil(len(shares) / 8)], minor=False)
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.2g}")
    axes.set_xlim(max(shares) * 1.1, min(shares) / 1.1)
    axes.set(xlabel="remaining, share of the prunable weights", ylabel="test accuracy after training, %")
    _legend(axes)


def _dots(axes: "Axes", curves: dict[Condition, dict[float, Values]], shares: Sequence[float]) -> None:
    for place, (condition, points) in enumerate(curves.items()):
        look, values = _look(condition), [value for at in points.values() for value in at]
        low, high = _band(values)
        middle = statistics.fmean(values)
        axes.errorbar(
            [middle], [place], xerr=[[middle - low], [high - middle]], fmt="D", color=look["color"], capsize=4
        )
        axes.plot(values, [place + 0.25] * len(values), ".", color="black", markersize=4)
        if condition == DENSE:
            axes.axvline(middle, **look, zorder=0)
    axes.set_yticks(range(len(curves)), [label(*condition) for condition in curves])
    axes.invert_yaxis()
    left = f", {max(shares):.3f} remaining" if shares else ""
    axes.set(xlabel=f"test accuracy after training, %{left}")


def barrier_figure(
    rows: Sequence[Row], conditions: Sequence[Condition], kinds: Sequence[str] = tuple(BARRIERS)
) -> "Figure":
    """Test error on the line between two networks: a row of panels for each round, a panel for each kind."""
    shown = [row for row in rows if row["kind"] in kinds]
    kinds = [kind for kind in kinds if any(row["kind"] == kind for row in shown)]
    rounds = sorted({row["round"] for row in shown})
    figure, panels = _panels(rows, len(rounds), len(kinds), sharey=True)
    for index, line in zip(rounds, panels, strict=True):
        for kind, axes in zip(kinds, line, strict=True):
            here = [row for row in shown if (row["round"], row["kind"]) == (index, kind)]
            for condition in conditions:
                if group := [row for row in here if (row["method"], row["transfer"]) == condition]:
                    errors = list(zip(*(row["errors"] for row in group), strict=True))
                    _curve(axes, group[0]["alphas"], errors, condition)
            name, x = BARRIERS[kind]
            remaining = f", {here[0]['remaining']:.3f} remaining" if here else ""
            axes.set_title(f"{name}{remaining}", fontsize="medium")
            axes.set(xlabel=x, ylabel="test error, %")
    _legend(*(axes for line in panels for axes in line))
    return figure


def analysis_figure(rows: Sequence[Row]) -> "Figure":
    """What a search does from round to round."""
    figure, (panels,) = _panels(rows, 1, len(ANALYSES))
    searches = defaultdict(list)
    for row in rows:
        if row["kind"] == "analysis":
            searches[row["method"]].append(row)
    for method, group in sorted(searches.items()):
        group.sort(key=lambda row: row["round"])
        rounds = [row["round"] for row in group]
        look = _look((method, "solution"))
        for axes, (key, (_, factor)) in zip(panels, ANALYSES.items(), strict=True):
            values = [math.nan if row[key] is None else factor * row[key] for row in group]
            axes.plot(rounds, values, **look, label=method.upper())
        reset = [row["accuracy_norms_reset"] for row in group]
        panels[-1].plot(rounds, reset, **look | {"marker": "s", "mfc": "white"}, label=f"{method.upper()}, norms reset")
    for axes, (name, _) in zip(panels, ANALYSES.values(), strict=True):
        axes.set(xlabel="round", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(panels[-1])
    return figure


def _conditions(rows: Sequence[Row], *kinds: str) -> list[Condition]:
    """Those that there is something to draw of: dense, then solutions, then other starts."""
    found = {(row["method"], row["transfer"]) for row in rows if row["kind"] in kinds and "failed" not in row}
    return sorted(found, key=lambda c: (list(STARTS).index(c[1]), list(LINES).index(c[0])))


def _look(condition: Condition) -> dict[str, Any]:
    method, transfer = condition
    marker, color = STARTS[transfer]
    return {
        "linestyle": LINES[method],
        "marker": marker,
        "color": COLORS.get(condition, color),
        "markersize": 5,
    }


def _curve(axes: "Axes", x: Values, values: Sequence[Values], condition: Condition) -> None:
    """Means as a line, mean ± standard deviation as a band."""
    axes.plot(x, [statistics.fmean(point) for point in values], **_look(condition), label=label(*condition))
    low, high = zip(*map(_band, values), strict=True)
    axes.fill_between(x, low, high, color=_look(condition)["color"], alpha=0.15, linewidth=0)


def _band(values: Values) -> tuple[float, float]:
    mean, std = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    return mean - std, mean + std


def _panels(rows: Sequence[Row], down: int, across: int, **options: Any) -> tuple["Figure", list[list["Axes"]]]:
    try:
        from matplotlib.figure import Figure  # not pyplot, which would keep figures and may want a screen
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("plots need matplotlib: pip install 'aws-lottery[plots]'") from error
    figure = Figure(figsize=(4.2 * across + 2, 3.4 * down), layout="constrained")
    figure.suptitle(title(rows), fontsize="medium")
    panels = figure.subplots(down, across, squeeze=False, **options)
    for axes in panels.flat:
        axes.grid(alpha=0.3)
    return figure, [list(line) for line in panels]


def _legend(*panels: "Axes") -> None:
    """Of all panels, right of them."""
    named = {name: line for axes in panels for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure = panels[-1].get_figure(root=True)
    assert figure is not None
    figure.legend(list(named.values()), list(named), loc="outside right center", fontsize="small", frameon=False)
