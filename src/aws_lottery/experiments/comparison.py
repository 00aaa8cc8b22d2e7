"""`compare`: final trainings from one or more searches, conditions x rounds x seeds, each run once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from .. import checked_tensors
from ..config import PROTOCOLS
from ..data import ImageData
from ..mask_file.sparse_weights import load_weights, solution_weights
from ..processes import any_process
from ..runs.checkpoint import CheckpointError, claim
from ..runs.final_training import MODEL_FILE, RESULT_FILE, final_training
from ..runs.lock import do_all, written_once
from ..strict_json import read_file
from ..training_config import TrainingConfig
from ..transfers import TRANSFERS, transfer_
from .jobs import Job, Plan, SearchRound, every_round
from .measurements import Measure
from .report import write_report
from .results import Accuracy, Analysis, Line, Origin, Row, row_from_dict, row_to_dict

if TYPE_CHECKING:
    from accelerate import Accelerator


class Comparison:
    """Final trainings from searches, and measurements of them, in a folder.

    A comparison that is started again does only what is not done yet; several processes may share the work.

    Args:
        searches: folders that find_signed_mask wrote, all under one protocol.
        fresh: seed -> a freshly initialized network.
        training: of every final training.
        rounds: which of the searches' rounds to start from.
        transfers: keys of TRANSFERS, for every search, or for those of one method (`lrr:mask`); `dense` once a seed.
        seeds: of the initialization and of the data order, n of the tables.
        barrier_rounds: of `rounds`; in these the barrier of each start to the solution is measured (LMC), and it is
            trained twice, for its stability against SGD noise.
        barrier_seeds: of `seeds`, with which starts are trained twice; None: all.
    Raises: ValueError for an unknown transfer, a round that a search does not have, two searches by one method, or
        searches under two protocols; CheckpointError if output_dir holds a comparison of other searches, data or
        hyper-parameters.
    """

    def __init__(
        self,
        searches: Sequence[str | Path],
        fresh: Callable[[int], nn.Module],
        data: ImageData,
        training: TrainingConfig,
        *,
        output_dir: str | Path,
        accelerator: "Accelerator",
        rounds: Sequence[int],
        transfers: Sequence[str] = ("dense", "solution", "signs", "mask"),
        seeds: Sequence[int] = (1, 2, 3),
        barrier_rounds: Sequence[int] = (),
        barrier_seeds: Sequence[int] | None = None,
    ):
        self.searches = [Path(folder) for folder in searches]
        self.fresh, self.data, self.training = fresh, data, training
        self.folder, self.accelerator = Path(output_dir), accelerator
        self.plan = Plan(
            rounds=[SearchRound(search, index) for index in rounds for search in self.searches],
            transfers=tuple(transfers),
            seeds=tuple(seeds),
            barrier_rounds=tuple(barrier_rounds),
            barrier_seeds=tuple(seeds if barrier_seeds is None else barrier_seeds),
        )
        _check(self.plan)
        self.protocol = self.plan.rounds[0].protocol
        self.measure = Measure(data, training.batch_size, PROTOCOLS[self.protocol].recalibrate, accelerator)

    def run(self) -> list[Row]:
        """Do what is not done, wait for what other processes do, and write results.jsonl, table.md, plots and cards.

        Returns: the rows of results.jsonl.
        """
        settings = {"training": asdict(self.training), "dataset": self.data.name, "images": len(self.data.train)}
        with self.accelerator.main_process_first():
            claim(self.folder, settings, resume=True)
        names = {"model": self.plan.rounds[0].architecture, "dataset": self.data.name}
        parts = (self._trainings, self._lines, self._analyses)
        rows = [replace(row, **names) for part in parts for row in do_all(part(), self.accelerator)]
        if self.accelerator.is_main_process:
            try:
                write_report(self.folder, rows, self.plan.rounds)
            except ModuleNotFoundError as error:  # an extra
                self.accelerator.print(f"no plots: {error}")
        self.accelerator.wait_for_everyone()
        return rows

    def _trainings(self) -> list[Callable[[], Row]]:
        return [partial(self._train, job) for job in self.plan.jobs()]

    def _lines(self) -> list[Callable[[], Row]]:
        """Of the trainings that did not fail; a row says which did."""
        trained = {job for job in self.plan.jobs() if self._train(job).failed is None}
        return [
            partial(self._once, f"{kind}-{job.name}", self._origin(job), partial(self._line, kind, job, end))
            for kind, job, end in self.plan.lines()
            if {job, end} <= trained
        ]

    def _analyses(self) -> list[Callable[[], Row]]:
        return [
            partial(self._once, f"analysis-{one.name}", one.origin, partial(self._analysis, one))
            for one in every_round(self.searches)
        ]

    def _train(self, job: Job) -> Accuracy:
        """The row of a final training, which is done if it has not been."""
        folder = self.folder / "trainings" / job.name
        origin = self._origin(job)
        if not any_process((folder / RESULT_FILE).exists(), self.accelerator):  # another run may be done with it now
            protocol = PROTOCOLS[self.protocol]
            self.accelerator.print(job.name)
            final_training(
                self._start(job.search_round, job.transfer, job.seed if protocol.seeded_init else job.data_seed),
                self.data,
                self.training,
                output_dir=folder,
                accelerator=self.accelerator,
                identity={"kind": "accuracy", **asdict(origin), "transfer": job.transfer, "seed": job.seed},
                seed=job.data_seed,
                recalibrated=protocol.recalibrate,
            )
        row = _checked(folder / RESULT_FILE, read_file(folder / RESULT_FILE), origin)
        assert isinstance(row, Accuracy)
        return row

    def _origin(self, job: Job) -> Origin:
        return job.search_round.origin if job.search_round else Origin(remaining_total=1.0, protocol=self.protocol)

    def _start(self, search_round: SearchRound | None, name: str, seed: int) -> nn.Module:
        model, transfer = self.fresh(seed), TRANSFERS[name]
        if search_round is not None:
            weights = solution_weights(search_round.folder, search_round.mask) if transfer.needs_weights else None
            transfer_(model, transfer, search_round.mask, weights=weights, seed=seed)
        return model

    def _trained(self, job: Job) -> nn.Module:
        model = self.fresh(job.seed)
        weights, _ = checked_tensors.read(self.folder / "trainings" / job.name / MODEL_FILE)
        model.load_state_dict(weights)
        return model.to(self.accelerator.device)

    def _line(self, kind: Literal["stability", "lmc"], job: Job, end: Job) -> Line:
        return self.measure.line(kind, job, self._origin(job), self._trained(job), self._trained(end))

    def _analysis(self, search_round: SearchRound) -> Analysis:
        model, mask = self.fresh(0), search_round.mask
        transfer_(model, TRANSFERS["solution"], mask, weights=load_weights(search_round.folder, mask))
        return self.measure.analysis(search_round, model, self.fresh)

    def _once(self, name: str, origin: Origin, measure: Callable[[], Row]) -> Row:
        """The row in the file `name`, which is measured if there is none. Raises: Busy if another process is at it."""
        path = self.folder / "measurements" / f"{name}.json"
        return _checked(path, written_once(path, lambda: row_to_dict(measure()), self.accelerator), origin)


def _check(plan: Plan) -> None:
    """Raises: ValueError that names what cannot be compared."""
    for what in ("rounds", "transfers", "seeds"):
        if not getattr(plan, what):
            raise ValueError(f"nothing to compare: {what} is empty" + (", or searches" if what == "rounds" else ""))
    if unknown := [name for name in plan.transfers if name.rpartition(":")[2] not in TRANSFERS]:
        raise ValueError(f"unknown transfer {', '.join(unknown)}; there are {', '.join(TRANSFERS)}")
    if missing := [str(one.folder) for one in plan.rounds if not one.folder.is_dir()]:
        raise ValueError(f"no such rounds: {', '.join(missing)}; has the search come so far?")
    if unknown := [str(one.folder) for one in plan.rounds if one.mask.config is None]:
        raise ValueError(f"{', '.join(unknown)}: the mask does not say by which search it was found (config)")
    names = [one.name for one in plan.rounds]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)} of more than one search; compare searches by one method apart")
    if unused := set(plan.barrier_seeds) - set(plan.seeds):
        raise ValueError(f"barrier_seeds {sorted(unused)} are not among the seeds {sorted(plan.seeds)}")
    rounds = {one.round for one in plan.rounds}
    if unused := set(plan.barrier_rounds) - rounds:
        raise ValueError(f"barrier_rounds {sorted(unused)} are not among the rounds {sorted(rounds)}")
    protocols = {one.protocol: one.name for one in plan.rounds}
    if len(protocols) > 1:
        which = " and ".join(f"{name} ({protocol})" for protocol, name in protocols.items())
        raise ValueError(f"{which} are measured in different ways; compare searches under one protocol")


def _checked(path: Path, values: Mapping[str, Any], origin: Origin) -> Row:
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
