"""The panels of figures: accuracies, errors on lines, and what a search does; drawn with matplotlib."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..summaries import mean_std
from .looks import DENSE, Condition, look
from .results import Analysis, Line, Row, first_trainings
from .tables import Values, label, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = {  # kind -> title of its panel, its x axis
    "stability": ("stability against SGD noise", "alpha, from A(θ, u') at 0 to A(θ, u) at 1"),
    "lmc": ("path to the solution", "alpha, from the solution at 0 to A(θ, u) at 1"),
    "between-inits": ("path to another initialization", "alpha, from A(θ', u') at 0 to A(θ, u) at 1"),
}
ANALYSES: dict[str, Callable[[Analysis], float]] = {  # y axis -> figure of an Analysis; NaN: there is none
    "sign flips since the round before, %": lambda row: _percent(row.sign_flips),
    "normalization scales below 0, %": lambda row: _percent(row.negative_gammas),
    "test accuracy when pruned, %": lambda row: row.accuracy,
}
SPREAD = "; mean ± std over seeds"


def accuracy_figure(rows: Sequence[Row], conditions: Sequence[Condition]) -> "Figure":
    """Accuracy after training against remaining, which falls to the right, dense over the whole width.

    If there is only one round to show: conditions below one another, a dot for each seed.
    """
    curves: dict[Condition, dict[float, Values]] = {condition: {} for condition in conditions}
    rounds = set()
    for start, group in first_trainings(rows).items():
        values = [row.after for row in group if row.after is not None]
        if values and (start.method, start.transfer) in curves:
            curves[start.method, start.transfer][group[0].remaining] = values
            rounds.add(start.round)
    curves = {condition: points for condition, points in curves.items() if points}  # less those that failed first
    figure, ((axes,),) = new_panels(f"{title(rows)}{SPREAD}", 1, 1)
    if len(rounds - {None}) > 1:
        _against_remaining(axes, curves)
        legend(figure)
    else:
        below_one_another(axes, curves, "test accuracy after training, %")
    return figure


def _against_remaining(axes: "Axes", curves: Mapping[Condition, Mapping[float, Values]]) -> None:
    for condition, points in curves.items():
        if condition == DENSE:
            (values,) = points.values()
            axes.axhline(mean_std(values)[0], **look(DENSE), label=label(*DENSE))
            axes.axhspan(*_band(values), color="black", alpha=0.12, linewidth=0)
        else:
            curve(axes, sorted(points), [points[x] for x in sorted(points)], condition)
    shares = sorted({x for condition, points in curves.items() if condition != DENSE for x in points}, reverse=True)
    ticks = shares[:: math.ceil(len(shares) / 8)]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{x:.2g}" for x in ticks])
    axes.set_xlim(shares[0] * 1.1, shares[-1] / 1.1)
    axes.set(xlabel="remaining, share of the prunable weights", ylabel="test accuracy after training, %")


def below_one_another(axes: "Axes", curves: Mapping[Condition, Mapping[float, Values]], measure: str) -> None:
    """A line for each condition, with a dot for each seed; `measure` is what the x axis has."""
    for place, (condition, points) in enumerate(curves.items()):
        (values,) = points.values()
        middle, (low, high), color = mean_std(values)[0], _band(values), look(condition)["color"]
        axes.errorbar([middle], [place], xerr=[[middle - low], [high - middle]], fmt="D", color=color, capsize=4)
        axes.plot(values, [place + 0.25] * len(values), "k.", markersize=4)
        if condition == DENSE:
            axes.axvline(middle, **look(DENSE), zorder=0)
    axes.set_yticks(range(len(curves)), [label(*condition) for condition in curves])
    axes.invert_yaxis()
    left = [f" ({x:.3f} remaining)" for c, points in curves.items() if c != DENSE for x in points]
    axes.set_xlabel(f"{measure}{left[0] if left else ''}")


def barrier_figure(
    rows: Sequence[Row], conditions: Sequence[Condition], kinds: Sequence[str] = tuple(LINES)
) -> "Figure":
    """Test error on the line between two networks: a row of panels for each round, a panel for each kind."""
    chosen = [row for row in rows if isinstance(row, Line) and row.kind in kinds and condition_of(row) in conditions]
    kinds = [kind for kind in kinds if any(row.kind == kind for row in chosen)]
    rounds = sorted({row.round or 0 for row in chosen})
    figure, panels = new_panels(f"{title(rows)}{SPREAD}", len(rounds), len(kinds), sharey=True)
    for index, line in zip(rounds, panels, strict=True):
        for kind, axes in zip(kinds, line, strict=True):
            here = [row for row in chosen if (row.round or 0, row.kind) == (index, kind)]
            for condition in conditions:
                if group := [row for row in here if condition_of(row) == condition]:
                    errors = list(zip(*(row.errors for row in group), strict=True))
                    curve(axes, group[0].alphas, errors, condition)
            name, x = LINES[kind]
            remaining = next(row.remaining for row in chosen if (row.round or 0) == index)
            axes.set_title(f"{name}, {remaining:.3f} remaining", fontsize="medium")
            axes.set(xlabel=x, ylabel="test error, %")
            axes.label_outer()
    legend(figure)
    return figure


def condition_of(row: Line) -> Condition:
    return row.method, row.transfer


def analysis_figure(rows: Sequence[Row]) -> "Figure":
    """What a search does from round to round."""
    analyses = sorted((row for row in rows if isinstance(row, Analysis)), key=lambda row: row.round or 0)
    figure, (panels,) = new_panels(title(rows), 1, len(ANALYSES))
    for method in sorted({str(row.method) for row in analyses}):
        group = [row for row in analyses if row.method == method]
        rounds, style, name = [row.round or 0 for row in group], look((method, "solution")), method.upper()
        for axes, value_of in zip(panels, ANALYSES.values(), strict=True):
            axes.plot(rounds, [value_of(row) for row in group], **style, label=name)
        style |= {"marker": "s", "markerfacecolor": "white"}
        reset = [row.accuracy_norms_reset for row in group]
        panels[-1].plot(rounds, reset, **style, label=f"{name}, norms reset")
    every = sorted({row.round or 0 for row in analyses})
    for axes, name in zip(panels, ANALYSES, strict=True):
        axes.set_xticks(every[:: math.ceil(len(every) / 10)])
        axes.set(xlabel="round", ylabel=name)
    legend(figure)
    return figure


def curve(axes: "Axes", x: Values, values: Sequence[Values], condition: Condition) -> None:
    """Means as a line, mean ± standard deviation as a band."""
    axes.plot(x, [mean_std(point)[0] for point in values], **look(condition), label=label(*condition))
    low, high = zip(*map(_band, values), strict=True)
    axes.fill_between(x, low, high, color=look(condition)["color"], alpha=0.15, linewidth=0)


def _band(values: Values) -> tuple[float, float]:
    """Mean less and plus one standard deviation; for one value, no more than that value."""
    mean, std = mean_std(values)
    return (mean, mean) if math.isnan(std) else (mean - std, mean + std)


def _percent(share: float | None) -> float:
    return math.nan if share is None else 100 * share


def require_matplotlib(option: str | None = None) -> None:
    """Raises: ModuleNotFoundError that says what to install, or by which `option` of a command to do without: before
    the hours that end in plots, not after them."""
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        without = f", or go without them: {option}" if option else ""
        raise ModuleNotFoundError(f"plots need matplotlib: pip install 'aws-lottery[plots]'{without}") from error


def new_panels(heading: str, down: int, across: int, **options: Any) -> tuple["Figure", list[list["Axes"]]]:
    """A figure with a heading and its panels, row by row. Raises: as `require_matplotlib`."""
    require_matplotlib()
    from matplotlib.figure import Figure  # not pyplot, which would keep figures and may want a screen

    figure = Figure(figsize=(4.2 * across + 2.8, 3.4 * down), layout="constrained")
    figure.suptitle(heading, fontsize="medium", wrap=True)
    panels = figure.subplots(down, across, squeeze=False, **options)
    for axes in panels.flat:
        axes.grid(alpha=0.3)
    return figure, [list(line) for line in panels]


def legend(figure: "Figure") -> None:
    """Of all panels, right of them."""
    entries = [pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    lines = {name: line for line, name in entries}
    options = {"loc": "outside right center", "fontsize": "small", "frameon": False, "handlelength": 3.2}
    figure.legend(list(lines.values()), list(lines), **options)
