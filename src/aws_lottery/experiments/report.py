"""What a comparison leaves for readers: results.jsonl, a table, figures, and masks whose cards state results."""

from collections.abc import Sequence
from pathlib import Path

from ..atomic import replace_file
from .figures import draw
from .jobs import SearchRound
from .results import Row, write_results
from .tables import results_for_card, table

ROWS_FILE, TABLE_FILE = "results.jsonl", "table.md"


def write_report(folder: Path, rows: Sequence[Row], rounds: Sequence[SearchRound]) -> None:
    """Write all of it to `folder`.

    Raises: ModuleNotFoundError, after the rest is written, if there is no matplotlib for the figures.
    """
    write_results(folder / ROWS_FILE, rows)
    replace_file(folder / TABLE_FILE, table(rows).encode())
    for search_round in rounds:
        mask = search_round.mask
        mask.results = tuple(results_for_card(rows, search_round.method, search_round.round))
        if mask.results:
            mask.save_pretrained(folder / "masks" / search_round.name)
    draw(rows, folder / "plots")
