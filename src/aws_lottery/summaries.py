"""How figures are shown: mean and standard deviation, and Markdown tables."""

import math
import statistics
from collections.abc import Iterable, Sequence


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1); the latter is NaN for one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def mean_std_text(values: Sequence[float], *, alone: str = " ± -") -> str:
    """`54.20 ± 0.35`; for one value `54.20` and what `alone` says; `-` for none."""
    if not values:
        return "-"
    mean, std = mean_std(values)
    return f"{mean:.2f}" + (alone if math.isnan(std) else f" ± {std:.2f}")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the cells are written as they are."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
