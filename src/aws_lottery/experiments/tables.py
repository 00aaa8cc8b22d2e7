"""The rows of a comparison (results.jsonl) as Markdown tables, and as the results that a mask's card states."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..mask_file.provenance import Result
from ..paper import SOURCE, Reported, reported
from ..transfers import TRANSFERS

Row = Mapping[str, Any]
Values = Sequence[float]
_PAPER = "paper, after training"


class Start(NamedTuple):
    """Where the trainings of one line of a table start."""

    round: int | None
    method: str | None  # None: dense
    transfer: str


LEGEND = """\
*Remaining* is the share of the prunable weights that is left (in brackets: of all parameters). Accuracy and error are
top-1 on the test set, in %: the mean ± the sample standard deviation (n - 1) over n seeds of initialization and data
order, `-` where n is 1."""
PAPER_LEGEND = f"Paper: {SOURCE}, for the same network, method and round."
BARRIER_LEGEND = """\
The *barrier* between two trained networks is the largest excess of the error on the line between them over the mean of
the errors at its two ends (Eq. 1). Stability: both are trained from one start, with different data orders. LMC: the
other one is the solution of the same search and round. Two networks that have learned nothing have a barrier of about 0
too: look at the ends."""
ANALYSIS_LEGEND = """\
Of the network as the search left it, pruned and not trained further: weights that changed sign since the round before,
of those left in both; scales of normalization layers below 0; accuracy as it is, and with normalization layers reset to
their initialization; what is left in the densest and the sparsest layer."""


def label(method: str | None, transfer: str) -> str:
    """What a condition is called: `dense`, `AWS solution`, `LRR: fresh + mask only`."""
    condition = TRANSFERS[transfer].condition
    if method is None:
        return condition
    return f"{method.upper()} {condition}" if transfer == "solution" else f"{method.upper()}: {condition}"


def title(rows: Iterable[Row]) -> str:
    """Networks and data sets of the rows: `resnet20 on tiny-imagenet-32`; empty if they name none."""
    rows = list(rows)
    named = [dict.fromkeys(str(row[what]) for row in rows if row.get(what)) for what in ("model", "dataset")]
    return " on ".join(", ".join(names) for names in named if names)


def first_trainings(rows: Iterable[Row]) -> dict[Start, list[Row]]:
    """Accuracy rows of each start, densest first, one for each seed.

    n counts seeds, so a second training from the same start, there for its stability, is in no mean: of the rows with
    one seed, that with the lowest `data_seed` counts, even if that training failed.
    """
    chosen: dict[tuple[Start, int], Row] = {}
    for row in sorted((row for row in rows if row["kind"] == "accuracy"), key=lambda row: row["data_seed"]):
        chosen.setdefault((_start(row), row["seed"]), row)
    return _grouped(sorted(chosen.values(), key=lambda row: row["seed"]))


def table(rows: Sequence[Row]) -> str:
    """Markdown: accuracies beside the paper's, where it has the same search; barriers; analyses; and what words mean.

    Args:
        rows: of one comparison. Columns that would be empty are left out, as are tables.
    """
    accuracies, analyses = _accuracies(rows), _analyses(rows)
    barriers = [*_barriers(rows, "stability", "stability"), *_barriers(rows, "lmc", "LMC")]
    parts = [
        title(rows),
        *map(_markdown, (accuracies, barriers, analyses)),
        LEGEND,
        PAPER_LEGEND if any(line[_PAPER] for line in accuracies) else "",
        BARRIER_LEGEND if barriers else "",
        ANALYSIS_LEGEND if analyses else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def results_for_card(rows: Sequence[Row], method: str, round: int) -> list[Result]:
    """What was measured with the mask of one search and round, and dense; trainings that failed are left out."""
    results = []
    for start, group in first_trainings(rows).items():
        done = [row for row in group if "after" in row]
        if done and (start.method is None or (start.method, start.round) == (method, round)):
            condition = label(start.method, start.transfer).removeprefix(f"{method.upper()}: ")
            values, before = ([row[what] for row in done] for what in ("after", "before"))
            results.append(Result(condition, str(done[0].get("dataset") or "a data set not named"), values, before))
    return results


def summary(values: Values) -> str:
    """Mean ± sample standard deviation: `54.20 ± 0.35`; `54.20 ± -` for one value, `-` for none."""
    if not values:
        return "-"
    return f"{statistics.fmean(values):.2f} ± " + (f"{statistics.stdev(values):.2f}" if len(values) > 1 else "-")


def _accuracies(rows: Sequence[Row]) -> list[dict[str, str]]:
    lines = []
    for start, group in first_trainings(rows).items():
        done = [row for row in group if "after" in row]
        paper = _paper(start, group[0])
        lines.append(
            _facts(start, group[0])
            | {
                "before training": summary([row["before"] for row in done]),
                "after training": summary([row["after"] for row in done]),
                "n": str(len(done)),
                "failed": str(len(group) - len(done) or ""),
                _PAPER: f"{paper.mean:.2f} ± {paper.std:.2f}" if paper else "",
            }
        )
    return lines


def _paper(start: Start, row: Row) -> Reported | None:
    """What the paper reports for the same start, if it prunes as much a round."""
    rate = 1 - row["remaining"] ** (1 / start.round) if start.round else 0.2
    known = reported(
        str(row.get("model")),
        str(row.get("dataset")),
        method=start.method,
        rounds=start.round,
        prune_rate=round(rate, 2),
    )
    return known.get(start.transfer)


def _barriers(rows: Sequence[Row], kind: str, name: str) -> list[dict[str, str]]:
    return [
        {"between": name}
        | _facts(start, group[0])
        | {
            "barrier": summary([row["barrier"] for row in group]),
            "error at its end": summary([row["errors"][-1] for row in group]),
            "error at the other end": summary([row["errors"][0] for row in group]),
            "n": str(len(group)),
        }
        for start, group in _grouped(row for row in rows if row["kind"] == kind).items()
    ]


def _analyses(rows: Sequence[Row]) -> list[dict[str, str]]:
    shown: dict[str, Callable[[Row], str]] = {
        "search": lambda row: row["method"].upper(),
        "round": lambda row: str(row["round"]),
        "remaining": _remaining,
        "sign flips, %": lambda row: _percent(row["sign_flips"]),
        "scales < 0, %": lambda row: _percent(row["negative_gammas"]),
        "accuracy": lambda row: f"{row['accuracy']:.2f}",
        "norms reset": lambda row: f"{row['accuracy_norms_reset']:.2f}",
        "densest layer": lambda row: f"{max(row['layers'].values(), default=math.nan):.3f}",
        "sparsest layer": lambda row: f"{min(row['layers'].values(), default=math.nan):.3f}",
    }
    found = sorted((row for row in rows if row["kind"] == "analysis"), key=lambda row: (row["method"], row["round"]))
    return [{name: cell(row) for name, cell in shown.items()} for row in found]


def _markdown(lines: Sequence[Mapping[str, str]]) -> str:
    """A column that is empty in all lines is left out."""
    if not lines:
        return ""
    columns = [name for name in lines[0] if any(line[name] for line in lines)]
    body = [[line[name] for name in columns] for line in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, ["---"] * len(columns), *body])


def _grouped(rows: Iterable[Row]) -> dict[Start, list[Row]]:
    groups: dict[Start, list[Row]] = defaultdict(list)
    for row in rows:
        groups[_start(row)].append(row)
    places = list(TRANSFERS)
    order = sorted(groups, key=lambda start: (start.round or 0, start.method or "", places.index(start.transfer)))
    return {start: groups[start] for start in order}


def _start(row: Row) -> Start:
    return Start(row["round"], row["method"], row["transfer"])


def _facts(start: Start, row: Row) -> dict[str, str]:
    return {
        "start": label(start.method, start.transfer),
        "round": str(start.round or "-"),
        "remaining": _remaining(row),
    }


def _remaining(row: Row) -> str:
    total = row.get("remaining_total")
    return f"{row['remaining']:.3f}" + ("" if total is None else f" ({total:.3f})")


def _percent(share: float | None) -> str:
    return "-" if share is None or math.isnan(share) else f"{100 * share:.2f}"
