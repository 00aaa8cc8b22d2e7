"""metrics.jsonl: a line of JSON for each stage of a run, always whole."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..atomic import replace_file
from ..strict_json import to_json

METRICS_FILE = "metrics.jsonl"


def write_metrics(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Replace the file by these lines."""
    replace_file(folder / METRICS_FILE, "".join(to_json(line) + "\n" for line in lines).encode())
