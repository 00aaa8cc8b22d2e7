"""The messages of a running command: shown above the progress bar, and written with times to a file of the results."""

import logging
import shutil
import sys
import textwrap
from pathlib import Path

from tqdm import tqdm

from ..atomic import make_folder

LOG_FILE = "log.txt"
LOGGER = logging.getLogger("aws_lottery")


class _AboveTheBar(logging.Handler):
    """Writes messages to stderr without breaking a progress bar there."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if sys.stderr.isatty():
            columns = shutil.get_terminal_size().columns - 1
            text = textwrap.fill(text, columns, break_long_words=False, break_on_hyphens=False)
        tqdm.write(text, file=sys.stderr)


class _InFile(logging.FileHandler):
    """A class of its own, so that `start_logging` does not remove a user's handlers."""


def start_logging(folder: str | None) -> None:
    """Show the package's messages, and append them to LOG_FILE in `folder`; None: show them only.

    One process calls it. It replaces the handlers of an earlier call.
    """
    for handler in [handler for handler in LOGGER.handlers if isinstance(handler, _AboveTheBar | _InFile)]:
        LOGGER.removeHandler(handler)
        handler.close()
    shown = _AboveTheBar()
    shown.setFormatter(logging.Formatter("%(message)s"))
    LOGGER.addHandler(shown)
    LOGGER.setLevel(logging.INFO)
    if folder is not None:
        make_folder(Path(folder))
        handler = _InFile(Path(folder) / LOG_FILE, encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        LOGGER.addHandler(handler)
