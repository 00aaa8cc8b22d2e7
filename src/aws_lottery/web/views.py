"""What the page shows, as HTML: templates with values, all of which are escaped, as they may come from strangers."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from ..maps import sign_colors
from ..mask import SignedMask
from ..mask_algebra import Likeness
from ..mask_file.provenance import LayerRow
from ..overview import Counts, overview
from ..summaries import shape_text, share_text
from .digits import Curve
from .sources import Opened

MAX_ROWS = 300  # of a table; a mask may have any number of tensors
MAX_MAPS = 60
MAP_SIDE = 64  # points

TEMPLATES = Environment(
    loader=PackageLoader(__package__ or "aws_lottery.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {"share": share_text, "shape": shape_text}


def problem_html(what: str, error: Exception) -> str:
    """An error, for those who look at the page: the messages of the package say what is wrong and what to do."""
    return _rendered("problem.html", what=what, text=str(error))


def note_html(text: str) -> str:
    return _rendered("note.html", text=text)


def summary_html(opened: Opened) -> str:
    """The figures of a mask in large type, and its origin as a list."""
    mask = opened.mask
    weights, survivors, positive = Counts.of(mask)
    return _rendered(
        "summary.html",
        name=opened.name,
        remaining=mask.remaining,
        weights=weights,
        remaining_total=mask.remaining_total,
        parameters=mask.parameters,
        survivors=survivors,
        positive=positive,
        entries=overview(mask, opened.folder),
    )


def layers_html(mask: SignedMask) -> str:
    """A row for each tensor with bars of what remains and of its signs, then a map of each."""
    rows = mask.table()
    largest = max((row.remaining for row in rows if row.prunable and not math.isnan(row.remaining)), default=0.0)
    maps = [_Map(row, _picture(mask, row)) for row in rows if row.prunable and row.weights][:MAX_MAPS]
    return _rendered(
        "layers.html",
        rows=rows[:MAX_ROWS],
        left_out=max(len(rows) - MAX_ROWS, 0),
        largest=largest or 1.0,
        signed=mask.signed,
        maps=maps,
        maps_left_out=max(len(mask.prunable) - MAX_MAPS, 0),
    )


def likeness_html(first: str, second: str, rows: Sequence[Likeness]) -> str:
    """What `likeness` says of two masks, all layers together first."""
    *layers, together = rows
    return _rendered(
        "likeness.html",
        first=first,
        second=second,
        together=together,
        rows=layers[:MAX_ROWS],
        left_out=max(len(layers) - MAX_ROWS, 0),
    )


def training_html(name: str, curves: Sequence[Curve], epochs: int, *, running: bool) -> str:
    """A chart of the accuracies so far, and the same as a table."""
    chart = Chart(epochs)
    lines = [(curve, chart.points(curve.accuracies)) for curve in curves]
    done = max(min(len(curve.accuracies) for curve in curves) - 1, 0)
    return _rendered("training.html", name=name, lines=lines, chart=chart, epochs=epochs, done=done, running=running)


class Chart:
    """Where the accuracies of a training stand in its picture, in units of SVG."""

    WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 320, 46, 14, 12, 46

    def __init__(self, epochs: int):
        self.epochs = epochs
        step = max(1, math.ceil(epochs / 10))
        self.ticks = [*range(0, epochs + 1, step)]

    def x(self, epoch: float) -> float:
        return round(self.LEFT + epoch / max(self.epochs, 1) * (self.WIDTH - self.LEFT - self.RIGHT), 1)

    def y(self, accuracy: float) -> float:
        return round(self.TOP + (1 - accuracy / 100) * (self.HEIGHT - self.TOP - self.BOTTOM), 1)

    def points(self, accuracies: Sequence[float]) -> list[tuple[float, float]]:
        return [(self.x(epoch), self.y(accuracy)) for epoch, accuracy in enumerate(accuracies)]


class _Map(NamedTuple):
    row: LayerRow
    picture: str


def _picture(mask: SignedMask, row: LayerRow) -> str:
    """A PNG as a data URI: red is +1, blue is -1, white is pruned."""
    colors = (sign_colors(mask[row.name], MAP_SIDE) * 255).round().byte().numpy()
    file = io.BytesIO()
    Image.fromarray(colors).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _rendered(template: str, **values: Any) -> str:
    return TEMPLATES.get_template(template).render(values)
