"""The paper's figures from the rows of a comparison (results.jsonl). Needs matplotlib, the extra `plots`."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .tables import Row, Values, first_trainings, label, title

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
COLORS: dict[Condition, str] = {
    LRR: "tab:blue",
    AWS: "tab:green",
    LRR_SIGNS: "tab:orange",
    AWS_SIGNS: "tab:red",
}


class Shown(NamedTuple):
    """A figure of the paper. Drawn if there are rows for two of its conditions, one of them what it is `about`."""

    kind: str
    conditions: tuple[Condition, ...]
    about: Condition
    networks: str = ""  # a regular expression

    def conditions_in(self, rows: Sequence[Row]) -> list[Condition]:
        """Those to draw; none if it is not to be drawn."""
        there = _conditions(rows, self.kind)
        chosen = [condition for condition in self.conditions if condition in there]
        return chosen if self.about in chosen and len(chosen) > 1 and re.match(self.networks, title(rows)) else []


_PARTS = {"a": "accuracy", "b": "stability", "c": "lmc"}
_FIGURE_2 = (DENSE, LRR, LRR_SIGNS, LRR_NORM, LRR_MASK)
_FIGURE_3 = (DENSE, LRR, AWS, LRR_SIGNS, AWS_SIGNS, LRR_MASK)
FIGURES = {
    **{f"figure2{part}": Shown(kind, _FIGURE_2, about=LRR_NORM) for part, kind in _PARTS.items()},
    **{f"figure3{part}": Shown(kind, _FIGURE_3, AWS_SIGNS, "(?!(?i:vgg))") for part, kind in _PARTS.items()},
    "figure4": Shown("accuracy", (DENSE, AWS, AWS_SIGNS, GM), about=GM),
    "figure5": Shown("accuracy", (DENSE, LRR, LRR_SIGNS, LRR_SHIFTED), about=LRR_SHIFTED),
    **{f"figure6{part}": Shown(kind, _FIGURE_3, AWS_SIGNS, "(?i:vgg)") for part, kind in _PARTS.items()},
}
BARRIERS = {  # kind -> title of its panel, its x axis
    "stability": ("stability against SGD noise", "alpha, from A(θ, u') at 0 to A(θ, u) at 1"),
    "lmc": ("path to the solution", "alpha, from the solution at 0 to A(θ, u) at 1"),
}
ANALYSES = {  # key -> y axis, factor
    "sign_flips": ("sign flips since the round before, %", 100.0),
    "negative_gammas": ("normalization scales below 0, %", 100.0),
    "accuracy": ("test accuracy when pruned, %", 1.0),
}
SPREAD = "; mean ± std over seeds"


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw the `figures` of one comparison, each to NAME.png.

    Raises: ModuleNotFoundError that says what to install.
    """
    paths = []
    for name, figure in figures(rows).items():
        folder.mkdir(parents=True, exist_ok=True)
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
    for name, (kind, *_) in FIGURES.items():
        if found := FIGURES[name].conditions_in(rows):
            made[name] = barrier_figure(rows, found, [kind]) if kind in BARRIERS else accuracy_figure(rows, found)
    return made


def accuracy_figure(rows: Sequence[Row], conditions: Sequence[Condition]) -> "Figure":
    """Accuracy after training against remaining, which falls to the right, dense over the whole width.

    If there is only one round to show: conditions below one another, a dot for each seed.
    """
    curves: dict[Condition, dict[float, Values]] = {condition: {} for condition in conditions}
    rounds = set()
    for start, group in first_trainings(rows).items():
        values = [row["after"] for row in group if "after" in row]
        if values and (start.method, start.transfer) in curves:
            curves[start.method, start.transfer][group[0]["remaining"]] = values
            rounds.add(start.round)
    figure, ((axes,),) = _panels(f"{title(rows)}{SPREAD}", 1, 1)
    (_against_remaining if len(rounds - {None}) > 1 else _below_one_another)(axes, curves)
    return figure


def _against_remaining(axes: "Axes", curves: Mapping[Condition, Mapping[float, Values]]) -> None:
    for condition, points in curves.items():
        if condition == DENSE:
            (values,) = points.values()
            axes.axhline(statistics.fmean(values), **_look(DENSE), label=label(*DENSE))
            axes.axhspan(*_band(values), color="black", alpha=0.12, linewidth=0)
        else:
            _curve(axes, sorted(points), [points[x] for x in sorted(points)], condition)
    shares = sorted({x for condition, points in curves.items() if condition != DENSE for x in points}, reverse=True)
    ticks = shares[:: math.ceil(len(shares) / 8)]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{x:.2g}" for x in ticks])
    axes.set_xlim(shares[0] * 1.1, shares[-1] / 1.1)
    axes.set(xlabel="remaining, share of the prunable weights", ylabel="test accuracy after training, %")
    _legend(axes.figure)


def _below_one_another(axes: "Axes", curves: Mapping[Condition, Mapping[float, Values]]) -> None:
    for place, (condition, points) in enumerate(curves.items()):
        (values,) = points.values()
        middle, (low, high), color = statistics.fmean(values), _band(values), _look(condition)["color"]
        axes.errorbar([middle], [place], xerr=[[middle - low], [high - middle]], fmt="D", color=color, capsize=4)
        axes.plot(values, [place + 0.25] * len(values), "k.", markersize=4)
        if condition == DENSE:
            axes.axvline(middle, **_look(DENSE), zorder=0)
    axes.set_yticks(range(len(curves)), [label(*condition) for condition in curves])
    axes.invert_yaxis()
    left = [f" ({x:.3f} remaining)" for c, points in curves.items() if c != DENSE for x in points]
    axes.set_xlabel(f"test accuracy after training, %{left[0] if left else ''}")


def barrier_figure(
    rows: Sequence[Row], conditions: Sequence[Condition], kinds: Sequence[str] = tuple(BARRIERS)
) -> "Figure":
    """Test error on the line between two networks: a row of panels for each round, a panel for each kind."""
    chosen = [row for row in rows if row["kind"] in kinds and (row["method"], row["transfer"]) in conditions]
    kinds = [kind for kind in kinds if any(row["kind"] == kind for row in chosen)]
    rounds = sorted({row["round"] for row in chosen})
    figure, panels = _panels(f"{title(rows)}{SPREAD}", len(rounds), len(kinds), sharey=True)
    for index, line in zip(rounds, panels, strict=True):
        remaining = next(row["remaining"] for row in chosen if row["round"] == index)
        for kind, axes in zip(kinds, line, strict=True):
            here = [row for row in chosen if (row["round"], row["kind"]) == (index, kind)]
            for condition in conditions:
                if group := [row for row in here if (row["method"], row["transfer"]) == condition]:
                    errors = list(zip(*(row["errors"] for row in group), strict=True))
                    _curve(axes, group[0]["alphas"], errors, condition)
            name, x = BARRIERS[kind]
            axes.set_title(f"{name}, {remaining:.3f} remaining", fontsize="medium")
            axes.set(xlabel=x, ylabel="test error, %")
            axes.label_outer()
    _legend(figure)
    return figure


def analysis_figure(rows: Sequence[Row]) -> "Figure":
    """What a search does from round to round."""
    found = sorted((row for row in rows if row["kind"] == "analysis"), key=lambda row: row["round"])
    figure, (panels,) = _panels(title(rows), 1, len(ANALYSES))
    for method in sorted({row["method"] for row in found}):
        group = [row for row in found if row["method"] == method]
        rounds, look, name = [row["round"] for row in group], _look((method, "solution")), method.upper()
        for axes, (key, (_, factor)) in zip(panels, ANALYSES.items(), strict=True):
            values = [math.nan if row[key] is None else factor * row[key] for row in group]
            axes.plot(rounds, values, **look, label=name)
        reset = [row["accuracy_norms_reset"] for row in group]
        look |= {"marker": "s", "markerfacecolor": "white"}
        panels[-1].plot(rounds, reset, **look, label=f"{name}, norms reset")
    every = sorted({row["round"] for row in found})
    for axes, (name, _) in zip(panels, ANALYSES.values(), strict=True):
        axes.set_xticks(every[:: math.ceil(len(every) / 10)])
        axes.set(xlabel="round", ylabel=name)
    _legend(figure)
    return figure


def _conditions(rows: Sequence[Row], *kinds: str) -> list[Condition]:
    """Those that there is something to draw of: dense, then solutions, then other starts."""
    found = {(row["method"], row["transfer"]) for row in rows if row["kind"] in kinds and "failed" not in row}
    return sorted(found, key=lambda c: (list(STARTS).index(c[1]), list(LINES).index(c[0])))


def _look(condition: Condition) -> dict[str, Any]:
    method, transfer = condition
    marker, color = STARTS[transfer]
    return {"linestyle": LINES[method], "marker": marker, "color": COLORS.get(condition, color), "markersize": 5}


def _curve(axes: "Axes", x: Values, values: Sequence[Values], condition: Condition) -> None:
    """Means as a line, mean ± standard deviation as a band."""
    axes.plot(x, [statistics.fmean(point) for point in values], **_look(condition), label=label(*condition))
    low, high = zip(*map(_band, values), strict=True)
    axes.fill_between(x, low, high, color=_look(condition)["color"], alpha=0.15, linewidth=0)


def _band(values: Values) -> tuple[float, float]:
    mean, std = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    return mean - std, mean + std


def _panels(heading: str, down: int, across: int, **options: Any) -> tuple["Figure", list[list["Axes"]]]:
    try:
        from matplotlib.figure import Figure  # not pyplot, which would keep figures and may want a screen
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("plots need matplotlib: pip install 'aws-lottery[plots]'") from error
    figure = Figure(figsize=(4.2 * across + 2.8, 3.4 * down), layout="constrained")
    figure.suptitle(heading, fontsize="medium")
    panels = figure.subplots(down, across, squeeze=False, **options)
    for axes in panels.flat:
        axes.grid(alpha=0.3)
    return figure, [list(line) for line in panels]


def _legend(figure: Any) -> None:
    """Of all panels, right of them."""
    found = [pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    lines = {name: line for line, name in found}
    options = {"loc": "outside right center", "fontsize": "small", "frameon": False, "handlelength": 3.2}
    figure.legend(list(lines.values()), list(lines), **options)
