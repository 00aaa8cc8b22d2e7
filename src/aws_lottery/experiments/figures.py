"""The paper's figures from the rows of a comparison (results.jsonl). Needs matplotlib, the extra `plots`."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..atomic import replace_file
from .looks import DENSE, Condition
from .panels import LINES, accuracy_figure, analysis_figure, barrier_figure
from .results import Accuracy, Analysis, Line, Row, transfer_order
from .tables import title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LRR, AWS, GM = ("lrr", "solution"), ("aws", "solution"), ("gm", "solution")
LRR_SIGNS, AWS_SIGNS, LRR_MASK = ("lrr", "signs"), ("aws", "signs"), ("lrr", "mask")
LRR_NORM, LRR_SHIFTED = ("lrr", "signs-norm"), ("lrr", "signs-norm-shifted")


class PaperFigure(NamedTuple):
    """A figure of the paper. Drawn if there are rows for two of its conditions, one of them what it is `about`."""

    kind: str
    conditions: tuple[Condition, ...]
    about: Condition
    networks: str = ""  # a regular expression

    def conditions_in(self, rows: Sequence[Row]) -> list[Condition]:
        """Those to draw; none if it is not to be drawn."""
        there = _conditions(rows, self.kind)
        chosen = [condition for condition in self.conditions if condition in there]
        return chosen if self.about in chosen and len(chosen) > 1 and re.match(self.networks, title(rows)) else []


_PARTS = {"a": "accuracy", "b": "stability", "c": "lmc"}
_FIGURE_2 = (DENSE, LRR, LRR_SIGNS, LRR_NORM, LRR_MASK)
_FIGURE_3 = (DENSE, LRR, AWS, LRR_SIGNS, AWS_SIGNS, LRR_MASK)
FIGURES = {
    **{f"figure2{part}": PaperFigure(kind, _FIGURE_2, about=LRR_NORM) for part, kind in _PARTS.items()},
    **{f"figure3{part}": PaperFigure(kind, _FIGURE_3, AWS_SIGNS, "(?!(?i:vgg))") for part, kind in _PARTS.items()},
    "figure4": PaperFigure("accuracy", (DENSE, AWS, AWS_SIGNS, GM), about=GM),
    "figure5": PaperFigure("accuracy", (DENSE, LRR, LRR_SIGNS, LRR_SHIFTED), about=LRR_SHIFTED),
    **{f"figure6{part}": PaperFigure(kind, _FIGURE_3, AWS_SIGNS, "(?i:vgg)") for part, kind in _PARTS.items()},
}


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw the `figures` of one comparison, each to NAME.png.

    Raises: ModuleNotFoundError that says what to install.
    """
    return save(figures(rows), folder)


def save(drawn: Mapping[str, "Figure"], folder: Path) -> list[Path]:
    """Write each figure to NAME.png."""
    paths = []
    for name, figure in drawn.items():
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(folder / f"{name}.png")
        image = io.BytesIO()
        figure.savefig(image, dpi=150)
        replace_file(paths[-1], image.getvalue())
    return paths


def figures(rows: Sequence[Row]) -> dict[str, "Figure"]:
    """Name -> what can be drawn: `accuracy`, `barriers` and `analysis` with all rows, and FIGURES of the paper."""
    drawn = {}
    if conditions := _conditions(rows, "accuracy"):
        drawn["accuracy"] = accuracy_figure(rows, conditions)
    if conditions := _conditions(rows, *LINES):
        drawn["barriers"] = barrier_figure(rows, conditions)
    if any(isinstance(row, Analysis) for row in rows):
        drawn["analysis"] = analysis_figure(rows)
    for name, figure in FIGURES.items():
        if conditions := figure.conditions_in(rows):
            on_lines = figure.kind in LINES
            drawn[name] = (
                barrier_figure(rows, conditions, [figure.kind]) if on_lines else accuracy_figure(rows, conditions)
            )
    return drawn


def _conditions(rows: Sequence[Row], *kinds: str) -> list[Condition]:
    """Those that there is something to draw of, in the order of TRANSFERS: dense, then solutions, then other starts."""
    there = {
        (row.method, row.transfer)
        for row in rows
        if isinstance(row, Line | Accuracy) and row.kind in kinds and not (isinstance(row, Accuracy) and row.failed)
    }
    return sorted(there, key=lambda condition: (transfer_order(condition[1]), condition[0] or ""))
