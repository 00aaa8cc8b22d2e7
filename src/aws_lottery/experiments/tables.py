"""The rows of a comparison as Markdown tables, and as the results that a mask's card states."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..mask_file.provenance import Result
from ..paper import SOURCE, Reported, reported
from ..summaries import markdown_table, mean_std_text
from ..transfers import TRANSFERS
from .results import Accuracy, Analysis, Line, LineKind, OnLine, Origin, Row, Start, by_start, first_trainings

Values = Sequence[float]
_BETWEEN: dict[LineKind, str] = {"stability": "stability", "lmc": "LMC", "between-inits": "two inits"}
_PAPER = "paper, after training"

LEGEND = """\
*Remaining* is the share of the prunable weights that is left (in brackets: of all parameters). Accuracy and error are
top-1 on the test set, in %: the mean ± the sample standard deviation (n - 1) over n seeds of initialization and data
order, `-` where n is 1."""
PAPER_LEGEND = f"Paper: {SOURCE}, for the same network, method and round."
BARRIER_LEGEND = """\
The *barrier* between two trained networks is the largest excess of the error on the line between them over the mean of
the errors at its two ends (Eq. 1). It is half the difference of the ends plus the excess over the higher end: where the
latter is 0 the line has no hump, and the barrier says only that the ends differ. *Over the straight line*: the largest
excess over the line between the errors of the ends. Stability: both are trained from one start, with different data
orders. LMC: the other one is the solution of the same search and round. Two networks that have learned nothing have a
barrier of about 0 too: look at the ends."""
INITS_LEGEND = "Two inits: the other one is trained from another initialization under the same signs."
ANALYSIS_LEGEND = """\
Of the network as the search left it, pruned and not trained further: weights that changed sign since the round before,
of those left in both; scales of normalization layers below 0; accuracy as it is, and with normalization layers reset to
their initialization; what is left in the densest and the sparsest layer."""


def label(method: str | None, transfer: str) -> str:
    """What a condition is called: `dense`, `AWS solution`, `LRR: fresh + mask only`."""
    condition = TRANSFERS[transfer].condition if transfer in TRANSFERS else transfer
    if method is None:
        return condition
    return f"{method.upper()} {condition}" if transfer == "solution" else f"{method.upper()}: {condition}"


def title(rows: Iterable[Row]) -> str:
    """Networks and data sets of the rows: `resnet20 on tiny-imagenet-32`; empty if they name none."""
    rows = list(rows)
    networks, datasets = dict.fromkeys(row.model for row in rows), dict.fromkeys(row.dataset for row in rows)
    named = [", ".join(filter(None, names)) for names in (networks, datasets)]
    return " on ".join(filter(None, named))


def table(rows: Sequence[Row]) -> str:
    """Markdown: accuracies beside the paper's, where it has the same search; barriers; analyses; and what words mean.

    Args:
        rows: of one comparison. Columns that would be empty are left out, as are tables.
    """
    accuracies = _accuracies(rows)
    measured = [row for row in rows if isinstance(row, Analysis)]
    analyses = analysis_lines(measured, "accuracy", scales="negative_gammas", digits=2)
    ends = ("error at its end", "error at the other end")
    barriers = barrier_lines([row for row in rows if isinstance(row, Line)], _BETWEEN, "barrier", ends)
    parts = [
        title(rows),
        *map(table_of, (accuracies, barriers, analyses)),
        LEGEND,
        PAPER_LEGEND if any(line[_PAPER] for line in accuracies) else "",
        BARRIER_LEGEND if barriers else "",
        INITS_LEGEND if any(row.kind == "between-inits" for row in rows) else "",
        ANALYSIS_LEGEND if analyses else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def results_for_card(rows: Sequence[Row], method: str | None, round: int | None) -> list[Result]:
    """What was measured with the mask of one search and round, and dense; trainings that failed are left out."""
    results = []
    for start, group in first_trainings(rows).items():
        done = [(row.after, row.before) for row in group if row.after is not None]
        if done and (start.method is None or (start.method, start.round) == (method, round)):
            condition = label(start.method, start.transfer).removeprefix(f"{str(method).upper()}: ")
            values, before = zip(*done, strict=True)
            results.append(Result(condition, group[0].dataset or "a data set not named", values, before))
    return results


def _accuracies(rows: Sequence[Row]) -> list[dict[str, str]]:
    lines = []
    for start, group in first_trainings(rows).items():
        after = [row.after for row in group if row.after is not None]
        paper = _paper(start, group[0])
        lines.append(
            start_cells(start, group[0])
            | {
                "before training": mean_std_text([row.before for row in group if row.after is not None]),
                "after training": mean_std_text(after),
                "n": str(len(after)),
                "failed": str(len(group) - len(after) or ""),
                _PAPER: f"{paper.mean:.2f} ± {paper.std:.2f}" if paper else "",
            }
        )
    return lines


def _paper(start: Start, row: Accuracy) -> Reported | None:
    """What the paper reports for the same start, if it prunes as much a round."""
    rate = 1 - row.remaining ** (1 / start.round) if start.round else 0.2
    known = reported(
        str(row.model), str(row.dataset), method=start.method, rounds=start.round, prune_rate=round(rate, 2)
    )
    return known.get(start.transfer)


def barrier_lines(
    rows: Sequence[OnLine], kinds: Iterable[LineKind], barrier: str, ends: tuple[str, str]
) -> list[dict[str, str]]:
    """Lines of a table of barriers, in the unit that the rows have.

    Args:
        kinds: in the order of the table.
        barrier: the column of the barrier.
        ends: the columns of what was measured at the ends of a line, that of its own training first.
    """
    lines = []
    for kind in kinds:
        for start, group in by_start(row for row in rows if row.kind == kind).items():
            barriers = [row.barrier for row in group]
            columns = {
                barrier: [one.barrier for one in barriers],
                "over the straight line": [one.over_line for one in barriers],
                "over the higher end": [one.over_higher_end for one in barriers],
                ends[0]: [one.ends[0] for one in barriers],
                ends[1]: [one.ends[1] for one in barriers],
            }
            figures = {name: mean_std_text(values) for name, values in columns.items()}
            lines.append({"between": _BETWEEN[kind]} | start_cells(start, group[0]) | figures | {"n": str(len(group))})
    return lines


def analysis_lines(rows: Iterable[Any], figure: str, scales: str, digits: int) -> list[dict[str, str]]:
    """Lines of a table of networks as their searches left them.

    Args:
        rows: of `Analysis`, or of a class that differs in the names of these fields alone.
        figure: what is measured, a field and its column; the field `<figure>_norms_reset` has it with norms reset.
        scales: field of the share of negative scales.
        digits: of `figure`, after the point.
    """
    columns: dict[str, Callable[[Any], str]] = {
        "search": lambda row: str(row.method).upper(),
        "round": lambda row: str(row.round),
        "remaining": _remaining,
        "sign flips, %": lambda row: _percent(row.sign_flips),
        "scales < 0, %": lambda row: _percent(getattr(row, scales)),
        figure: lambda row: f"{getattr(row, figure):.{digits}f}",
        "norms reset": lambda row: f"{getattr(row, f'{figure}_norms_reset'):.{digits}f}",
        "densest layer": lambda row: f"{max(row.layers.values(), default=math.nan):.3f}",
        "sparsest layer": lambda row: f"{min(row.layers.values(), default=math.nan):.3f}",
    }
    ordered = sorted(rows, key=lambda row: (str(row.method), row.round or 0))
    return [{name: cell(row) for name, cell in columns.items()} for row in ordered]


def table_of(lines: Sequence[Mapping[str, str]]) -> str:
    """A table with a line for each of `lines`; a column that is empty in all of them is left out."""
    if not lines:
        return ""
    columns = [name for name in lines[0] if any(line[name] for line in lines)]
    return markdown_table(columns, [[line[name] for name in columns] for line in lines])


def start_cells(start: Start, row: Origin) -> dict[str, str]:
    """What a line of a table begins with; `row` is of that start."""
    return {
        "start": label(start.method, start.transfer),
        "round": str(start.round or "-"),
        "remaining": _remaining(row),
    }


def _remaining(row: Origin) -> str:
    total = row.remaining_total
    return f"{row.remaining:.3f}" + ("" if total is None else f" ({total:.3f})")


def _percent(share: float | None) -> str:
    return "-" if share is None or math.isnan(share) else f"{100 * share:.2f}"
