"""How conditions look in figures. In black and white the line tells the method and the marker tells the start.

The rows of METHODS and TRANSFERS say how they look; a row that says nothing gets a look by its place.
"""

from typing import Any

from ..config import METHODS, LineStyle
from ..transfers import TRANSFERS

Condition = tuple[str | None, str]  # method, transfer
DENSE: Condition = (None, "dense")

DENSE_LINE = ":"
COLORS: dict[Condition, str] = {  # of the paper's Figure 3; every other condition has the color of its transfer
    ("lrr", "solution"): "tab:blue",
    ("aws", "solution"): "tab:green",
    ("lrr", "signs"): "tab:orange",
    ("aws", "signs"): "tab:red",
}


def look(condition: Condition) -> dict[str, Any]:
    """Options of matplotlib's `plot` for the curve of a condition."""
    method, transfer = condition
    color = COLORS.get(condition) or color_of(transfer)
    return {"linestyle": line_of(method), "marker": marker_of(transfer), "color": color, "markersize": 5}


def line_of(method: str | None) -> LineStyle:
    """The line of a method: its row's, or dashes whose number grows with its place in METHODS."""
    if method is None:
        return DENSE_LINE
    row = METHODS.get(method)
    if row is not None and row.line is not None:
        return row.line
    dots = 2 + _place(method, [name for name, row in METHODS.items() if row.line is None])
    return 0, (5, 1) + (1, 1) * dots + (1, 3)


def marker_of(transfer: str) -> str:
    """The marker of a transfer: its row's, or a letter."""
    row = TRANSFERS.get(transfer)
    if row is not None and row.marker is not None:
        return row.marker
    place = _place(transfer, [name for name, row in TRANSFERS.items() if row.marker is None])
    return f"${chr(ord('A') + place % 26)}$"


def color_of(transfer: str) -> str:
    """The color of a transfer: its row's, or one of matplotlib's own cycle."""
    row = TRANSFERS.get(transfer)
    if row is not None and row.color is not None:
        return row.color
    return f"C{_place(transfer, [name for name, row in TRANSFERS.items() if row.color is None])}"


def _place(name: str, names: list[str]) -> int:
    return names.index(name) if name in names else len(names)
