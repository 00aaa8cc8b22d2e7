"""How figures and names are shown: mean and standard deviation, times and sizes, the first of many names, tables."""

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
    return f"{mean:z.2f}" + (alone if math.isnan(std) else f" ± {std:.2f}")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the cells are written as they are."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def some_text(things: Iterable[str]) -> str:
    """Ten of them with commas between, and how many more there are."""
    listed = list(things)
    return ", ".join(listed[:10]) + (f" and {len(listed) - 10} more" if listed[10:] else "")


def share_text(share: float) -> str:
    """Four digits after the point, `1.0000`; of what is under 0.001, four digits that are not 0; `-` for NaN, the share
    of nothing."""
    if math.isnan(share):
        return "-"
    return f"{share:.4f}" if share >= 0.001 or not share else f"{share:.4g}"


def shape_text(shape: Sequence[int]) -> str:
    """`64x3x3x3`; `scalar` for no dimensions."""
    return "x".join(map(str, shape)) or "scalar"


def duration_text(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def size_text(size: float) -> str:
    """Bytes as `980 B`, `1.2 kB`, `3.4 MB`, `5.6 GB`; powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
