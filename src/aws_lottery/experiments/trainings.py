"""Final trainings and the lines between them as files of a folder: each done once, by one of the runs that share it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .. import checked_tensors
from ..config import PROTOCOLS
from ..data import ImageData
from ..evaluation import recalibrate_on_images
from ..mask_file.sparse_weights import solution_weights
from ..processes import any_process, by_first
from ..runs.checkpoint import CheckpointError, claim
from ..runs.final_training import MODEL_FILE, RESULT_FILE, final_training
from ..runs.lock import Busy, do_all, locked, written_once
from ..strict_json import read_file
from ..train_many import not_joined, train_many
from ..training import steps_an_epoch
from ..training_config import TrainingConfig
from ..transfers import TRANSFERS, transfer_
from .jobs import Job, JobLine, LoneMask, SearchRound
from .measurements import Measure
from .results import Accuracy, Line, Origin, Row, row_from_dict, row_to_dict

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """What jobs are done with, and where their results are kept.

    Args:
        folder: of the results; `trainings` and `measurements` are made in it.
        fresh: seed -> a freshly initialized network.
        training: of every final training but those of `own_training`.
        own_training: method -> training from the masks that its searches found, where it is not `training`.
        at_once: how many trainings share their steps (`train_many`), where they can.
        protocol: how networks are measured, a row of PROTOCOLS.
        model: what the network is called in the rows.
    """

    folder: Path
    fresh: Callable[[int], nn.Module]
    data: ImageData
    training: TrainingConfig
    protocol: str
    accelerator: "Accelerator"
    model: str | None = None
    own_training: Mapping[str, TrainingConfig] = field(default_factory=dict)
    at_once: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.fresh, nn.Module):
            raise TypeError(f"expected a function of a seed that makes a network, got the network {self.model or ''}")
        if self.at_once < 1:
            raise ValueError(f"at_once must be 1 or more, got {self.at_once}")

    @cached_property
    def measure(self) -> Measure:
        return Measure(self.data, self.training.batch_size, PROTOCOLS[self.protocol].recalibrate, self.accelerator)

    def claim(self, **settings: object) -> None:
        """Make the folder the home of these trainings and of no others.

        Raises: CheckpointError if it is of others; ValueError if a batch is larger than the data.
        """
        for config in (self.training, *self.own_training.values()):
            steps_an_epoch(
                self.data.train, config, self.accelerator, partial_batches=PROTOCOLS[self.protocol].partial_batches
            )
        settings = {
            "training": asdict(self.training),
            "dataset": self.data.name,
            "images": len(self.data.train),
            **settings,
        }
        if self.own_training:
            settings["own_training"] = {method: asdict(config) for method, config in self.own_training.items()}
        by_first(partial(claim, self.folder, settings, resume=True), self.accelerator)

    def rows(self, parts: Iterable[Callable[[], Iterable[Callable[[], Row]]]]) -> list[Row]:
        """The rows that the jobs of each part give; a part is asked for its jobs when those before it are done."""
        names = {"model": self.model, "dataset": self.data.name}
        return [replace(row, **names) for part in parts for row in do_all(part(), self.accelerator)]

    def of(self, jobs: Iterable[Job]) -> list[Callable[[], Row]]:
        """The trainings themselves."""
        jobs = list(jobs)
        if not self._share_steps():
            return [partial(self.train, job) for job in jobs]
        groups = {job: group for group in self._groups(jobs) for job in group}
        return [partial(self._train_in, groups[job], job) for job in jobs]

    def _share_steps(self) -> bool:
        if self.at_once == 1:
            return False
        networks = [self.fresh(seed) for seed in (0, 1)]
        for config in (self.training, *self.own_training.values()):
            if reason := not_joined(networks, self.data.train, config, self.accelerator):
                self.accelerator.print(f"one training after the other: {reason}")
                return False
        return True

    def _groups(self, jobs: Iterable[Job]) -> Iterator[list[Job]]:
        """At most `at_once` jobs each, all with the same hyper-parameters."""
        by_method: dict[str | None, list[Job]] = {}
        for job in jobs:
            method = self.origin(job).method
            by_method.setdefault(method if method in self.own_training else None, []).append(job)
        for alike in by_method.values():
            yield from (alike[start : start + self.at_once] for start in range(0, len(alike), self.at_once))

    def between(self, lines: Iterable[JobLine]) -> list[Callable[[], Row]]:
        """Lines whose ends were trained; of a training that failed, its own row says so."""
        lines = list(lines)
        trained = {job: self.train(job).failed is None for line in lines for job in (line.job, line.end)}
        return [
            partial(self.once, line.name, self.origin(line.job), partial(self._line, line))
            for line in lines
            if trained[line.job] and trained[line.end]
        ]

    def train(self, job: Job, *, weights: Mapping[str, Tensor] | None = None) -> Accuracy:
        """The row of a final training, which is done if it has not been.

        Args:
            weights: what the network is after the training, if it was trained among others.
        Raises: Busy if another run is at it.
        """
        origin = self.origin(job)
        if not self._is_done(job):  # another run may be done with it now
            self.accelerator.print(job.name)
            final_training(
                self._start_of(job),
                self.data,
                self.training_of(job),
                output_dir=self._folder_of(job),
                accelerator=self.accelerator,
                identity={"kind": "accuracy", **asdict(origin), "transfer": job.transfer, "seed": job.seed},
                seed=job.data_seed,
                protocol=PROTOCOLS[self.protocol],
                weights=weights,
            )
        result = self._folder_of(job) / RESULT_FILE
        row = checked(result, by_first(partial(read_file, result), self.accelerator), origin)
        assert isinstance(row, Accuracy)
        return row

    def _train_in(self, group: Sequence[Job], job: Job) -> Accuracy:
        """`train`, and with it all others of the group that are not done. Raises: Busy if another run is at them."""
        if not self._is_done(job):
            with locked(self.folder / "trainings" / f"{group[0].name}.lock", self.accelerator):
                for one, weights in self._trained_at_once([one for one in group if not self._is_done(one)]).items():
                    with suppress(Busy):  # a run that takes them one by one has it
                        self.train(one, weights=weights)
        return self.train(job)

    def _trained_at_once(self, jobs: Sequence[Job]) -> dict[Job, dict[str, Tensor] | None]:
        """What the networks are after their trainings; None: to be trained by itself."""
        by_themselves: dict[Job, dict[str, Tensor] | None] = dict.fromkeys(jobs)
        if len(jobs) < 2:
            return by_themselves
        self.accelerator.print(f"{len(jobs)} trainings at once")
        models = [self._start_of(job) for job in jobs]
        config, protocol = self.training_of(jobs[0]), PROTOCOLS[self.protocol]
        if protocol.recalibrate:  # as the measurement does that comes before a training by itself
            for model in models:
                recalibrate_on_images(model, self.data.train, config.batch_size)
        try:
            train_many(
                models,
                self.data.train,
                config,
                accelerator=self.accelerator,
                seeds=[job.data_seed for job in jobs],
                partial_batches=protocol.partial_batches,
            )
        except FloatingPointError as error:  # the result of a training by itself says what became of it
            self.accelerator.print(f"one training after the other: {error}")
            return by_themselves
        return {job: model.state_dict() for job, model in zip(jobs, models, strict=True)}

    def _is_done(self, job: Job) -> bool:
        return any_process((self._folder_of(job) / RESULT_FILE).exists(), self.accelerator)

    def _folder_of(self, job: Job) -> Path:
        return self.folder / "trainings" / job.name

    def _start_of(self, job: Job) -> nn.Module:
        seeded_init = PROTOCOLS[self.protocol].seeded_init
        return self.start(job.source, job.transfer, job.seed if seeded_init else job.data_seed)

    def training_of(self, job: Job) -> TrainingConfig:
        return self.own_training.get(self.origin(job).method or "", self.training)

    def origin(self, job: Job) -> Origin:
        return job.source.origin if job.source else Origin(remaining_total=1.0, protocol=self.protocol)

    def start(self, source: SearchRound | LoneMask | None, name: str, seed: int) -> nn.Module:
        """The network that a final training starts from, held to its mask."""
        model, transfer = self.fresh(seed), TRANSFERS[name]
        if source is not None:
            weights = solution_weights(source.folder, source.mask) if transfer.needs_weights else None
            transfer_(model, transfer, source.mask, weights=weights, seed=seed)
        return model

    def once(self, name: str, origin: Origin, measure: Callable[[], Row]) -> Row:
        """The row in the file `name`, which is measured if there is none. Raises: Busy if another process is at it."""
        path = self.folder / "measurements" / f"{name}.json"
        return checked(path, written_once(path, lambda: row_to_dict(measure()), self.accelerator), origin)

    def _line(self, line: JobLine) -> Line:
        return self.measure.line(
            line.kind, line.job, self.origin(line.job), self._trained(line.job), self._trained(line.end)
        )

    def _trained(self, job: Job) -> nn.Module:
        model = self.fresh(job.seed)
        weights, _ = checked_tensors.read(self._folder_of(job) / MODEL_FILE)
        model.load_state_dict(weights)
        return model.to(self.accelerator.device)


def checked(path: Path, values: Mapping[str, Any], origin: Origin) -> Row:
    """The row in `path`. Raises: CheckpointError if it was measured of another mask, or under another protocol."""
    row = row_from_dict(values, path)
    if row.signed_mask != origin.signed_mask:
        raise CheckpointError(
            f"{path} is of another search: its signed mask is {row.signed_mask}, not "
            f"{origin.signed_mask}; take another output folder"
        )
    if row.protocol != origin.protocol:
        raise CheckpointError(
            f"{path} was measured under protocol '{row.protocol}', the search is of '{origin.protocol}'; delete its "
            "folder to have it measured again, or take another output folder"
        )
    return row
