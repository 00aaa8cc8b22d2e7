"""What a mask's files say of it besides its signs: what was measured with it, and how it was made.

Kept in its config.json and shown on its card. Everything here may come from a stranger's file, so each class
checks its own types.
"""

import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import torch

from .. import __version__

# Conditions that every card has a row for; more may follow. The solution's is "AWS solution", "LRR solution", ...
DENSE, SIGNED, MASK_ONLY, RANDOM_SIGNS = "dense", "fresh + signed mask", "fresh + mask only", "fresh + random signs"


@dataclass(frozen=True)
class Result:
    """A figure for each seed: how networks do that start from one condition.

    Args:
        condition: where training starts, such as `fresh + signed mask`.
        dataset: its id on the Hub where it has one, else any name.
        values: after training, a value a seed.
        before: before any training, for the same seeds; empty if that was not measured.
        metric: its id among the Hub's metrics; accuracy is in percent.

    Raises:
        ValueError: With the name of the field.

    Example:
        >>> from aws_lottery import Result
        >>> Result("fresh + signed mask", "cifar100", values=[71.2, 70.8]).values
        (71.2, 70.8)
    """

    condition: str
    dataset: str
    values: Sequence[float]
    before: Sequence[float] = ()
    metric: str = "accuracy"

    def __post_init__(self) -> None:
        for name in ("condition", "dataset", "metric"):
            _require(isinstance(getattr(self, name), str), self, name, "a string")
        for name in ("values", "before"):
            numbers = getattr(self, name)
            _require(_are_finite(numbers), self, name, "a list of finite numbers")
            object.__setattr__(self, name, tuple(map(float, numbers)))
        _require(len(self.values) > 0, self, "values", "one or more numbers")
        _require(len(self.before) in (0, len(self.values)), self, "before", f"{len(self.values)} numbers or none")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a mask was made; what is None is not known. `provenance` fills in what a machine can know.

    Args:
        library_version: of aws_lottery.
        commit: of its source, where that is a git checkout.
        software: of the search: versions of Python and torch.
        hardware: of the search.
        date: of the search, as YYYY-MM-DD.
        command: that ran it.
        dataset: that it was found on; its id on the Hub where it has one.
        training: hyper-parameter -> value, of the trainings within the search and after it.
        model_code: Python that assigns a fresh network to `model`, shown in the card's example.
        task: the Hub's pipeline tag, such as `image-classification`.
        license: as in the front matter of the Hub's cards.
        base_model: likewise.
        limits: sentences on what the results do not show.
        history: of a search that started at a mask, what that mask was, and what it started at; the oldest first. Plain
            data: its source, a fingerprint of its signs, its share of remaining weights, its search.

    Raises:
        ValueError: With the name of the field.

    Example:
        >>> from aws_lottery import Provenance
        >>> Provenance(dataset="uoft-cs/cifar100", license="apache-2.0").license
        'apache-2.0'
    """

    library_version: str | None = None
    commit: str | None = None
    software: str | None = None
    hardware: str | None = None
    date: str | None = None
    command: str | None = None
    dataset: str | None = None
    training: Mapping[str, object] = field(default_factory=dict)
    model_code: str | None = None
    task: str | None = None
    license: str | None = None
    base_model: str | None = None
    limits: Sequence[str] = ()
    history: Sequence[Mapping[str, object]] = ()

    def __post_init__(self) -> None:
        for name in {f.name for f in fields(self)} - {"training", "limits", "history"}:
            value = getattr(self, name)
            _require(value is None or isinstance(value, str), self, name, "a string or None")
        _require(isinstance(self.training, Mapping), self, "training", "a mapping")
        limits = self.limits
        _require(
            isinstance(limits, list | tuple) and all(isinstance(x, str) for x in limits), self, "limits", "strings"
        )
        object.__setattr__(self, "limits", tuple(limits))
        before = self.history
        _require(
            isinstance(before, list | tuple) and all(isinstance(x, Mapping) for x in before),
            self,
            "history",
            "mappings",
        )
        object.__setattr__(self, "history", tuple(before))


class LayerRow(NamedTuple):
    """A line of `SignedMask.table`."""

    name: str
    shape: tuple[int, ...]
    prunable: bool
    weights: int
    remaining: float  # share of the entries that are not 0
    positive: float  # share of +1 among those; NaN where none is left


def provenance(**stated: object) -> Provenance:
    """What this machine knows of a search that it runs now, and what the caller states.

    Args:
        stated: fields of `Provenance`; they go before what the machine knows.

    Returns:
        With library_version, commit, software, hardware and date filled in.

    Raises:
        ValueError: As `Provenance`.

    Example:
        >>> from aws_lottery import provenance
        >>> provenance(command="python my_search.py", date="2026-11-25").date
        '2026-11-25'
    """
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    known = {
        "library_version": __version__,
        "commit": _commit(),
        "software": f"Python {platform.python_version()}, torch {torch.__version__}",
        "hardware": _accelerators(device)
        if device
        else f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)",
        "date": datetime.now(UTC).date().isoformat(),
    }
    return Provenance(**{**known, **stated})  # type: ignore[arg-type]


def _accelerators(device: torch.device) -> str:
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    return f"{os.environ.get('WORLD_SIZE', '1')} x {name}"


def _commit() -> str | None:
    """Of the checkout that this file is tracked in, if any; not of one that merely surrounds an installation."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], check=True, capture_output=True)
        described = [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(described, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _are_finite(numbers: object) -> bool:
    return isinstance(numbers, list | tuple) and all(
        isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < 1e308 and math.isfinite(x) for x in numbers
    )


def _require(ok: bool, owner: object, name: str, expected: str) -> None:
    if not ok:
        raise ValueError(f"{type(owner).__name__}: {name} must be {expected}, got {getattr(owner, name)!r:.100}")
