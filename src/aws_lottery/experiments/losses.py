"""Networks that are measured by a loss, such as language models: typed rows, tables, claims and a figure of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..connectivity import Barrier
from ..summaries import markdown_table, mean_std_text
from .claims import Claim, Finding, judge
from .looks import Condition
from .panels import LINES, below_one_another, curve, legend, new_panels
from .results import FromStart, LineKind, Origin, Start, by_start, row_of
from .tables import label

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
class LossLine(FromStart):
    """Test losses on the line to a network trained from `start`, at alpha 1, from another one; `results.Line`."""

    kind: LineKind
    alphas: Sequence[float]
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
    barriers, analyses = _barriers(rows), _analyses(rows)
    parts = [_losses(rows), _verdicts(findings(rows, pairs)), barriers, analyses, LEGEND]
    parts += [text for text, there in ((BARRIER_LEGEND, barriers), (ANALYSIS_LEGEND, analyses)) if there]
    return "\n\n".join(part for part in parts if part) + "\n"


def _start_cells(start: Start, row: Origin) -> list[str]:
    total = row.remaining_total
    remaining = f"{row.remaining:.3f}" + ("" if total is None else f" ({total:.3f})")
    return [label(start.method, start.transfer), str(start.round or "-"), remaining]


def _losses(rows: Sequence[Row]) -> str:
    header = ["start", "round", "remaining", "perplexity before training", "after training", "loss after training"]
    lines = []
    for start, group in first_losses(rows).items():
        perplexities = [[math.exp(getattr(row, when)) for row in group] for when in ("before", "after")]
        same = [100 * row.signs_kept for row in group if row.signs_kept is not None]
        figures = [*perplexities, [row.after for row in group], same]
        lines.append([*_start_cells(start, group[0]), *map(mean_std_text, figures), str(len(group))])
    return markdown_table([*header, "signs kept, %", "n"], lines)


def _verdicts(found: Sequence[Finding]) -> str:
    header = ["claim", "holds if the mean is", "nats ahead, by seed", "interval", "p, corrected", "verdict"]
    lines = []
    for finding in found:
        claim = finding.claim
        values = ", ".join(f"{value:.3f}" for value in claim.values) or "-"
        interval = "-" if finding.low is None else f"{finding.low:.3f} to {finding.high:.3f}"
        p = "-" if finding.p_corrected is None else f"{finding.p_corrected:.2g}"
        lines.append([claim.statement, f"above {claim.bound:g}", values, interval, p, finding.verdict])
    return markdown_table(header, lines) if lines else ""


def _barriers(rows: Sequence[Row]) -> str:
    header = ["between", "start", "round", "remaining", "barrier, nats"]
    lines = []
    for kind, name in (("lmc", "LMC"), ("stability", "stability")):
        for start, group in by_start(row for row in rows if isinstance(row, LossLine) and row.kind == kind).items():
            barriers = [row.barrier for row in group]
            figures = (
                [barrier.barrier for barrier in barriers],
                [barrier.over_line for barrier in barriers],
                [barrier.over_higher_end for barrier in barriers],
                [barrier.ends[0] for barrier in barriers],
                [barrier.ends[1] for barrier in barriers],
            )
            lines.append([name, *_start_cells(start, group[0]), *map(mean_std_text, figures), str(len(group))])
    over = ["over the straight line", "over the higher end"]
    return markdown_table([*header, *over, "loss at its end", "at the other end", "n"], lines) if lines else ""


def _analyses(rows: Sequence[Row]) -> str:
    header = ["search", "round", "remaining", "sign flips, %", "scales < 0, %", "loss", "norms reset"]
    analyses = [row for row in rows if isinstance(row, LossAnalysis)]
    lines = [
        [
            str(row.method).upper(),
            str(row.round),
            f"{row.remaining:.3f}",
            *("-" if share is None else f"{100 * share:.2f}" for share in (row.sign_flips, row.negative_scales)),
            f"{row.loss:.3f}",
            f"{row.loss_norms_reset:.3f}",
            f"{max(row.layers.values()):.3f}",
            f"{min(row.layers.values()):.3f}",
        ]
        for row in sorted(analyses, key=lambda row: (str(row.method), row.round or 0))
    ]
    return markdown_table([*header, "densest layer", "sparsest layer"], lines) if lines else ""


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
