"""What a command tells while it runs: messages above the bar, and the same with times in a file beside the results."""

import logging
import shutil
import sys
import textwrap
from pathlib import Path

from tqdm import tqdm

LOG_FILE = "log.txt"
LOGGER = logging.getLogger("aws_lottery")


class _AboveTheBar(logging.Handler):
    """Writes where a bar may be, without breaking it."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if sys.stderr.isatty():
            columns = shutil.get_terminal_size().columns - 1
            text = textwrap.fill(text, columns, break_long_words=False, break_on_hyphens=False)
        tqdm.write(text, file=sys.stderr)


class _InFile(logging.FileHandler):
    """Of our own kind, to be told from those of a user."""


def start_logging(folder: str | None) -> None:
    """Show the package's messages, and append them to LOG_FILE in `folder`; None: show them only.

    To be called by one process; it ends what an earlier call in it began.
    """
    for handler in [handler for handler in LOGGER.handlers if isinstance(handler, _AboveTheBar | _InFile)]:
        LOGGER.removeHandler(handler)
        handler.close()
    shown = _AboveTheBar()
    shown.setFormatter(logging.Formatter("%(message)s"))
    LOGGER.addHandler(shown)
    LOGGER.setLevel(logging.INFO)
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        handler = _InFile(Path(folder) / LOG_FILE, encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        LOGGER.addHandler(handler)
