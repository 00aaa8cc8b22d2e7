"""Final trainings and the lines between them as files of a folder: each done once, by one of the runs that share it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from .. import checked_tensors
from ..config import PROTOCOLS
from ..data import ImageData
from ..mask_file.sparse_weights import solution_weights
from ..processes import any_process
from ..runs.checkpoint import CheckpointError, claim
from ..runs.final_training import MODEL_FILE, RESULT_FILE, final_training
from ..runs.lock import do_all, written_once
from ..strict_json import read_file
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

    @cached_property
    def measure(self) -> Measure:
        return Measure(self.data, self.training.batch_size, PROTOCOLS[self.protocol].recalibrate, self.accelerator)

    def claim(self, **settings: object) -> None:
        """Make the folder the home of these trainings and of no others. Raises: CheckpointError if it is of others."""
        settings = {
            "training": asdict(self.training),
            "dataset": self.data.name,
            "images": len(self.data.train),
            **settings,
        }
        if self.own_training:
            settings["own_training"] = {method: asdict(config) for method, config in self.own_training.items()}
        with self.accelerator.main_process_first():
            claim(self.folder, settings, resume=True)

    def rows(self, parts: Iterable[Callable[[], Iterable[Callable[[], Row]]]]) -> list[Row]:
        """The rows that the jobs of each part give; a part is asked for its jobs when those before it are done."""
        names = {"model": self.model, "dataset": self.data.name}
        return [replace(row, **names) for part in parts for row in do_all(part(), self.accelerator)]

    def of(self, jobs: Iterable[Job]) -> list[Callable[[], Row]]:
        """The trainings themselves."""
        return [partial(self.train, job) for job in jobs]

    def between(self, lines: Iterable[JobLine]) -> list[Callable[[], Row]]:
        """Lines whose ends were trained; of a training that failed, its own row says so."""
        lines = list(lines)
        trained = {job: self.train(job).failed is None for line in lines for job in (line.job, line.end)}
        return [
            partial(self.once, line.name, self.origin(line.job), partial(self._line, line))
            for line in lines
            if trained[line.job] and trained[line.end]
        ]

    def train(self, job: Job) -> Accuracy:
        """The row of a final training, which is done if it has not been. Raises: Busy if another run is at it."""
        folder = self.folder / "trainings" / job.name
        origin = self.origin(job)
        if not any_process((folder / RESULT_FILE).exists(), self.accelerator):  # another run may be done with it now
            protocol = PROTOCOLS[self.protocol]
            self.accelerator.print(job.name)
            final_training(
                self.start(job.source, job.transfer, job.seed if protocol.seeded_init else job.data_seed),
                self.data,
                self.training_of(job),
                output_dir=folder,
                accelerator=self.accelerator,
                identity={"kind": "accuracy", **asdict(origin), "transfer": job.transfer, "seed": job.seed},
                seed=job.data_seed,
                protocol=protocol,
            )
        row = checked(folder / RESULT_FILE, read_file(folder / RESULT_FILE), origin)
        assert isinstance(row, Accuracy)
        return row

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
        weights, _ = checked_tensors.read(self.folder / "trainings" / job.name / MODEL_FILE)
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
