"""Networks that are measured by a loss, such as language models: typed rows, tables, claims and a figure of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..connectivity import Barrier
from ..summaries import markdown_table, mean_std_text
from .claims import Claim, Finding, judge
from .looks import Condition
from .panels import LINES, below_one_another, curve, legend, new_panels
from .results import FromStart, OnLine, Origin, Start, by_start, row_of
from .tables import analysis_lines, barrier_lines, start_cells, table_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEGEND = """\
*Remaining* is the share of the prunable weights that is left (in brackets: of all parameters). Loss is in nats, the
perplexity its exponential, both on the test set: the mean ± the sample standard deviation (n - 1) over n seeds of
initialization and data order, `-` where n is 1. *Signs kept*: share of the survivors that have the sign of the search's
mask after the final training."""
BARRIER_LEGEND = """\
The *barrier* is the largest excess of the loss on the line between two trained networks over the mean of the losses at
its ends (Eq. 1, in nats), which is half the difference of the ends where the line has no hump; *over the straight
line*, or the *higher end*: the largest excess over that. LMC: to the solution of the same search and round. Stability:
between two trainings from one start, with different data orders."""
ANALYSIS_LEGEND = """\
Of the network as the search left it, pruned and not trained further: weights that changed sign since the round before,
of those left in both; scales of normalization layers below 0; its loss as it is, and with normalization layers reset to
their initialization; what is left in the densest and the sparsest layer."""


@dataclass(frozen=True, kw_only=True)
class Loss(FromStart):
    """Losses of a final training A(theta, u) on the test set, in nats.

    Args:
        data_seed: u.
        signs_kept: share of the survivors that have the sign of the search's mask in the end; None: dense.
    """

    kind: Literal["loss"] = "loss"
    data_seed: int
    before: float
    after: float
    signs_kept: float | None


@dataclass(frozen=True, kw_only=True)
class LossLine(OnLine):
    """Test losses on a line, in nats."""

    losses: Sequence[float]

    @property
    def barrier(self) -> Barrier:
        return Barrier(tuple(self.alphas), tuple(self.losses))


@dataclass(frozen=True, kw_only=True)
class LossAnalysis(Origin):
    """The network as a search left it after a round; `results.Analysis`, with losses."""

    kind: Literal["analysis"] = "analysis"
    sign_flips: float | None
    negative_scales: float | None
    loss: float
    loss_norms_reset: float
    layers: Mapping[str, float]


Row = Loss | LossLine | LossAnalysis
KINDS: dict[str, type[Row]] = {"loss": Loss, "stability": LossLine, "lmc": LossLine, "analysis": LossAnalysis}


def loss_row(values: Mapping[str, Any], where: object = "row") -> Row:
    """The row that is kept as `dataclasses.asdict` has it. Raises: as `results.row_of`."""
    return row_of(KINDS, values, where)


class Ahead(NamedTuple):
    """That the loss of `one` is, on the mean over seeds, more than `bound` nats below that of `other`."""

    name: str
    statement: str
    one: Start
    other: Start
    bound: float = 0.0


def first_losses(rows: Sequence[Row]) -> dict[Start, list[Loss]]:
    """Of each start its trainings with the first data order of their seed."""
    first = [row for row in rows if isinstance(row, Loss) and row.seed == row.data_seed]
    return by_start(sorted(first, key=lambda row: row.seed))


def findings(rows: Sequence[Row], pairs: Sequence[Ahead]) -> list[Finding]:
    """A verdict on each pair, on the differences between two trainings of one seed, all of them judged together."""
    after = {start: {row.seed: row.after for row in group} for start, group in first_losses(rows).items()}
    claims = []
    for pair in pairs:
        one, other = after.get(pair.one, {}), after.get(pair.other, {})
        values = tuple(other[seed] - one[seed] for seed in one if seed in other)
        claims.append(Claim(name=pair.name, statement=pair.statement, values=values, side="above", bound=pair.bound))
    return judge(claims)


def loss_report(rows: Sequence[Row], pairs: Sequence[Ahead]) -> str:
    """Markdown: losses, verdicts, barriers, analyses, and what words mean."""
    lines = [row for row in rows if isinstance(row, LossLine)]
    barriers = barrier_lines(lines, ("lmc", "stability"), "barrier, nats", ("loss at its end", "at the other end"))
    measured = [replace(row, remaining_total=None) for row in rows if isinstance(row, LossAnalysis)]
    analyses = analysis_lines(measured, "loss", scales="negative_scales", digits=3)
    parts = [table_of(_losses(rows)), _verdicts(findings(rows, pairs)), table_of(barriers), table_of(analyses), LEGEND]
    parts += [text for text, there in ((BARRIER_LEGEND, barriers), (ANALYSIS_LEGEND, analyses)) if there]
    return "\n\n".join(part for part in parts if part) + "\n"


def _losses(rows: Sequence[Row]) -> list[dict[str, str]]:
    lines = []
    for start, group in first_losses(rows).items():
        columns = {
            "perplexity before training": [math.exp(row.before) for row in group],
            "after training": [math.exp(row.after) for row in group],
            "loss after training": [row.after for row in group],
            "signs kept, %": [100 * row.signs_kept for row in group if row.signs_kept is not None],
        }
        figures = {name: mean_std_text(values) for name, values in columns.items()}
        lines.append(start_cells(start, group[0]) | figures | {"n": str(len(group))})
    return lines


def _verdicts(judged: Sequence[Finding]) -> str:
    header = ["claim", "holds if the mean is", "nats ahead, by seed", "interval", "p, corrected", "verdict"]
    lines = []
    for finding in judged:
        claim = finding.claim
        values = ", ".join(f"{value:.3f}" for value in claim.values) or "-"
        interval = "-" if finding.low is None else f"{finding.low:.3f} to {finding.high:.3f}"
        p = "-" if finding.p_corrected is None else f"{finding.p_corrected:.2g}"
        lines.append([claim.statement, f"above {claim.bound:g}", values, interval, p, finding.verdict])
    return markdown_table(header, lines) if lines else ""


def loss_figures(rows: Sequence[Row], heading: str) -> dict[str, "Figure"]:
    """`loss`: perplexities after training, a panel for each round; `barriers`: losses on the lines to the solution.

    Raises: as `panels.require_matplotlib`.
    """
    groups = first_losses(rows)
    drawn = {"loss": _loss_figure(groups, heading)}
    if lines := by_start(row for row in rows if isinstance(row, LossLine) and row.kind == "lmc"):
        drawn["barriers"] = _line_figure(lines, heading)
    return drawn


def _loss_figure(groups: Mapping[Start, Sequence[Loss]], heading: str) -> "Figure":
    rounds = sorted({start.round for start in groups if start.round is not None}, reverse=True) or [None]
    figure, panels = new_panels(heading, len(rounds), 1, sharex=True)
    for index, (axes,) in zip(rounds, panels, strict=True):
        points: dict[Condition, dict[float, list[float]]] = {
            (start.method, start.transfer): {group[0].remaining: [math.exp(row.after) for row in group]}
            for start, group in groups.items()
            if start.round in (None, index)
        }
        below_one_another(axes, points, "test perplexity after training")
    return figure


def _line_figure(lines: Mapping[Start, Sequence[LossLine]], heading: str) -> "Figure":
    name, x = LINES["lmc"]
    figure, ((axes,),) = new_panels(f"{heading}: {name}", 1, 1)
    for start, group in lines.items():
        losses = list(zip(*(row.losses for row in group), strict=True))
        curve(axes, group[0].alphas, losses, (start.method, start.transfer))
    axes.set(xlabel=x, ylabel="test loss, nats")
    legend(figure)
    return figure
