"""Tables that fit the terminal, bars, and maps of masks, in plain Unicode."""

import math
import shutil
import textwrap
from collections.abc import Sequence

import torch
from torch import Tensor

from ..maps import binned, matrix_of

EIGHTHS = " ▏▎▍▌▋▊▉█"
SHADES = " ░▒▓█"


def width() -> int:
    """Columns of the terminal; 80 where there is none."""
    return shutil.get_terminal_size().columns


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns, two spaces apart: the first to the left, shortened to fit the terminal, the others to the right."""
    sizes = [max(len(cells[place]) for cells in (header, *rows)) for place in range(len(header))]
    sizes[0] = max(min(sizes[0], width() - 1 - sum(size + 2 for size in sizes[1:])), 8)
    return "\n".join(_line(cells, sizes) for cells in (header, *rows))


def bar(part: float, size: int = 10) -> str:
    """A share as a bar of `size` columns, drawn in eighths of a column; any share above 0 gets at least one."""
    if math.isnan(part):
        return " " * size
    eighths = min(max(round(8 * size * part), 1 if part > 0 else 0), 8 * size)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + EIGHTHS[rest] * (rest > 0)).ljust(size)


def hanging(start: str, text: str) -> str:
    """`start` followed by the wrapped text, whose further lines are indented by the length of `start`."""
    indent = " " * len(start)
    return textwrap.fill(start + text, width() - 1, subsequent_indent=indent, break_on_hyphens=False)


def shaded(value: Tensor, rows: int, columns: int) -> list[str]:
    """A map of the remaining weights of a tensor, line by line: blank where none remain, solid where most do.

    Args:
        value: signs, of any shape; its first dimension (output channels) goes down, all others across.
    """
    left = binned(matrix_of(value) != 0, rows, columns)
    top = max(float(left.max()), torch.finfo(torch.float32).tiny)
    levels = (left / top * (len(SHADES) - 1)).ceil().int()
    return ["".join(SHADES[level] for level in line) for line in levels.tolist()]


def _line(cells: Sequence[str], sizes: Sequence[int]) -> str:
    first, *others = cells
    short = (
        first
        if len(first) <= sizes[0]
        else f"{first[: sizes[0] // 3]}…{first[len(first) - (sizes[0] * 2 + 2) // 3 + 1 :]}"
    )
    aligned = [
        short[: sizes[0]].ljust(sizes[0]),
        *(cell.rjust(size) for cell, size in zip(others, sizes[1:], strict=True)),
    ]
    return "  ".join(aligned).rstrip()
