"""Claims below one another, each with its values, its interval and its bound; drawn with matplotlib."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .claims import Finding
from .panels import new_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"holds": "tab:green", "does not hold": "tab:red", "not enough seeds": "tab:gray"}
X_AXES = {
    "above": "accuracy with the signs less that of the control, points",
    "below": "error barrier (Eq. 1), points",
}


def claim_figure(findings: Sequence[Finding], heading: str) -> "Figure":
    """A panel for differences in accuracy, that hold above their bound, and one for barriers, that hold below it."""
    sides = [side for side in X_AXES if any(finding.claim.side == side for finding in findings)]
    figure, panels = new_panels(f"{heading}\na dot for each initialization, mean and interval", len(sides), 1)
    for side, (axes,) in zip(sides, panels, strict=True):
        here = [finding for finding in findings if finding.claim.side == side]
        for place, finding in enumerate(here):
            _draw(axes, place, finding)
        axes.set_yticks(range(len(here)), [textwrap.fill(finding.claim.statement, 34) for finding in here])
        axes.tick_params(axis="y", labelsize="small")
        axes.set_ylim(len(here) - 0.4, -0.6)
        axes.set_xlabel(X_AXES[side])
    figure.set_size_inches(9.0, 1.4 + 0.8 * len(findings))
    return figure


def _draw(axes: "Axes", place: int, finding: Finding) -> None:
    claim, color = finding.claim, COLORS[finding.verdict]
    axes.plot([claim.bound] * 2, [place - 0.4, place + 0.4], color="black", linestyle="--", linewidth=1)
    axes.plot(claim.values, [place + 0.2] * len(claim.values), "k.", markersize=4)
    if finding.mean is None:
        return
    axes.plot([finding.mean], [place], "D", color=color)
    if finding.low is not None and finding.high is not None:
        axes.plot([finding.low, finding.high], [place, place], color=color, linewidth=2)
    axes.annotate(finding.verdict, (1.01, place), xycoords=("axes fraction", "data"), color=color, va="center")
