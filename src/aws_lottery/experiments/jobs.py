"""What is trained: masks, with their search or without one, and final trainings from them; plain data, no work."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

from ..mask import SignedMask
from ..mask_file.pretrained import MASK_FILE, packed
from ..runs.round_folder import round_folder
from .results import LineKind, Origin

OTHER_NOISE = 1000  # added to the seed of the data order

T = TypeVar("T")


def several(what: str, values: Iterable[T]) -> tuple[T, ...]:
    """The values. Raises: TypeError for a single one: of a path, its letters would be taken."""
    if isinstance(values, str | Path | int):
        raise TypeError(f"{what} must be a list, got {values!r}; of one alone it is [{values!r}]")
    return tuple(values)


@dataclass(frozen=True)
class SearchRound:
    """A round of a search, in the folder that find_signed_mask left."""

    search: Path
    round: int

    @property
    def folder(self) -> Path:
        return round_folder(self.search, self.round)

    @property
    def before(self) -> "SearchRound":
        return replace(self, round=self.round - 1)

    @cached_property
    def mask(self) -> SignedMask:
        return SignedMask.from_pretrained(self.folder)

    @property
    def method(self) -> str:
        assert self.mask.config is not None  # a search writes it
        return self.mask.config.method

    @property
    def protocol(self) -> str:
        assert self.mask.config is not None
        return self.mask.config.protocol

    @property
    def architecture(self) -> str | None:
        return self.mask.config.architecture if self.mask.config else None

    @property
    def name(self) -> str:
        return f"{self.method}-round-{self.round:02}"

    @cached_property
    def origin(self) -> Origin:
        return Origin(
            method=self.method,
            round=self.round,
            remaining=self.mask.remaining,
            remaining_total=self.mask.remaining_total,
            protocol=self.protocol,
            signed_mask=_digest((self.folder / MASK_FILE).read_bytes()),
        )


@dataclass(frozen=True, eq=False)
class LoneMask:
    """A signed mask without the search that found it: from the Hub, from a folder, or made by hand.

    Args:
        weights: folder with the weights that the search left beside it; None: there are none.
    """

    mask: SignedMask
    weights: Path | None = None

    @property
    def folder(self) -> Path:
        if self.weights is None:
            raise ValueError("the mask has no trained weights beside it; leave out the starts that need them")
        return self.weights

    @property
    def protocol(self) -> str:
        return self.mask.config.protocol if self.mask.config else "paper"

    @property
    def architecture(self) -> str | None:
        return self.mask.config.architecture if self.mask.config else None

    @property
    def name(self) -> str:
        return "mask"

    @cached_property
    def origin(self) -> Origin:
        return Origin(
            method=self.mask.config.method if self.mask.config else None,
            remaining=self.mask.remaining,
            remaining_total=self.mask.remaining_total,
            protocol=self.protocol,
            signed_mask=_digest(packed(self.mask)),
        )


def _digest(file: bytes) -> str:
    return hashlib.sha256(file).hexdigest()[:16]


def every_round(searches: Iterable[Path]) -> list[SearchRound]:
    """All rounds that searches have come to."""
    return [
        SearchRound(search, int(folder.name.removeprefix("round-")))
        for search in searches
        for folder in sorted(search.glob("round-*"))
        if folder.name.removeprefix("round-").isdecimal()
    ]


@dataclass(frozen=True)
class Job:
    """One final training: A(theta, u), where `seed` makes theta_init and `data_seed` is u."""

    source: SearchRound | LoneMask | None  # None: dense
    transfer: str
    seed: int
    data_seed: int

    @property
    def name(self) -> str:
        origin = f"{self.source.name}-" if self.source else ""
        return f"{origin}{self.transfer}-seed{self.seed}-u{self.data_seed}"

    @property
    def other(self) -> "Job":
        """The same start with other SGD noise, to measure stability."""
        return replace(self, data_seed=self.data_seed + OTHER_NOISE)

    @property
    def is_first(self) -> bool:
        """Whether it is not the second training from its start."""
        return self.seed == self.data_seed


class JobLine(NamedTuple):
    """A line that errors are measured on, from the network that `end` trained to the one that `job` did."""

    kind: LineKind
    job: Job
    end: Job

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.job.name}" + ("" if self.end.seed == self.job.seed else f"-to-seed{self.end.seed}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which final trainings a comparison consists of; its fields are arguments of Comparison."""

    rounds: Sequence[SearchRound]
    transfers: Sequence[str]
    seeds: Sequence[int]
    barrier_rounds: Sequence[int]
    barrier_seeds: Sequence[int]

    def jobs(self) -> list[Job]:
        """All trainings, the sparsest round first and second trainings last: the most telling results come first."""
        dense = [Job(None, "dense", seed, seed) for seed in self.seeds if "dense" in self.transfers]
        first = [
            Job(search_round, transfer, seed, seed)
            for index in sorted({search_round.round for search_round in self.rounds}, reverse=True)
            for seed in self.seeds
            for search_round in self.rounds
            if search_round.round == index
            for transfer in self.transfers_of(search_round)
        ]
        return [*dense, *first, *(job.other for job in first if self.is_trained_twice(job))]

    def transfers_of(self, search_round: SearchRound) -> list[str]:
        """From one round; `lrr:mask` is for the rounds of one method."""
        split = [name.rpartition(":") for name in self.transfers if name != "dense"]
        return [name for method, _, name in split if method in ("", search_round.method)]

    def is_trained_twice(self, job: Job) -> bool:
        """Whether the barrier between two trainings from its start is measured."""
        return self.has_barriers(job) and job.seed in self.barrier_seeds

    def has_barriers(self, job: Job) -> bool:
        return isinstance(job.source, SearchRound) and job.source.round in self.barrier_rounds

    def lines(self) -> list[JobLine]:
        """Every line that a barrier is measured on."""
        lines: list[JobLine] = []
        for job in self.jobs():
            if not isinstance(job.source, SearchRound) or not self.has_barriers(job) or not job.is_first:
                continue
            if self.is_trained_twice(job):
                lines.append(JobLine("stability", job, job.other))
            if job.transfer != "solution" and "solution" in self.transfers_of(job.source):
                lines.append(JobLine("lmc", job, replace(job, transfer="solution")))
        return lines
