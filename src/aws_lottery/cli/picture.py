"""A mask as a PNG: how much of each layer remains, and where its signs are."""

import math
from pathlib import Path
from typing import Any

from ..maps import sign_colors
from ..mask import SignedMask

COLUMNS = 4  # of maps beside one another


def require_plots() -> None:
    """Raises: ModuleNotFoundError that says what to install; call it before any work."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("--png needs matplotlib: pip install 'aws-lottery[plots]'") from error


def draw(mask: SignedMask, path: str | Path, title: str) -> None:
    """Write the picture: one map for each prunable layer, with output channels down and all else across.

    The colors are those of `sign_colors`.
    """
    from matplotlib.figure import Figure

    rows = [row for row in mask.table() if row.prunable]
    lines = math.ceil(len(rows) / COLUMNS)
    height = max(2.0 * lines, 3.0) + 0.8
    figure = Figure(figsize=(11, height), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=(1, 2))
    left, right = halves
    axes = left.subplots()
    axes.barh(range(len(rows)), [row.remaining for row in rows], color="0.6", label="remaining")
    axes.plot([row.positive for row in rows], range(len(rows)), "|", color="tab:red", label="share of +")
    axes.set(yticks=range(len(rows)), xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5), xlabel="share")
    axes.set_yticklabels([row.name.removesuffix(".weight") for row in rows], fontsize=6)
    axes.legend(fontsize=7, loc="upper right")
    panels = right.subplots(lines, COLUMNS, squeeze=False).flatten()
    for panel, row in zip(panels, rows, strict=False):
        panel.imshow(sign_colors(mask[row.name]).numpy(), aspect="auto", interpolation="nearest")
        panel.set_title(f"{row.name.removesuffix('.weight')}\n{row.remaining:.4f}", fontsize=6)
    for panel in panels:
        panel.set_axis_off()
    figure.suptitle(title, fontsize=9)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, format="png")
