"""What a comparison leaves for readers: results.jsonl, a table, figures, and masks whose cards state results."""

from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from ..atomic import replace_file
from .figures import draw
from .jobs import SearchRound
from .results import Row, write_results
from .tables import results_for_card, table

ROWS_FILE, TABLE_FILE = "results.jsonl", "table.md"


def write_report(folder: Path, rows: Sequence[Row], rounds: Sequence[SearchRound], *, plots: bool = True) -> None:
    """Write all of it to `folder`, without figures where `plots` is False. Runs that have shared the work, and are done
    together, do so one after the other.

    Raises: ModuleNotFoundError, after the rest is written, if there is no matplotlib for the figures.
    """
    with FileLock(folder / "report.lock"):
        write_results(folder / ROWS_FILE, rows)
        replace_file(folder / TABLE_FILE, table(rows).encode())
        for search_round in rounds:
            mask = search_round.mask
            mask.results = tuple(results_for_card(rows, search_round.method, search_round.round))
            if mask.results:
                mask.save_pretrained(folder / "masks" / search_round.name)
        if plots:
            draw(rows, folder / "plots")
