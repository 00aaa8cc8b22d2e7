"""`compare`: final trainings from one or more searches, conditions x rounds x seeds, each run once and kept."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
from filelock import FileLock, Timeout
from torch import nn

from ..atomic import replace_file
from ..config import PROTOCOLS
from ..connectivity import error_barrier
from ..data import ImageData
from ..evaluation import accuracy_of
from ..mask_file.sparse_weights import load_weights
from ..parameters.unwrap import parameters_of
from ..runs.checkpoint import claim
from ..runs.final_training import MODEL_FILE, RESULT_FILE, final_training
from ..runs.lock import Busy
from ..runs.search import round_folder
from ..training_config import TrainingConfig
from ..transfers import TRANSFERS, transfer_
from .figures import draw
from .jobs import Found, Job, Row, kept
from .search_statistics import negative_gammas, sign_flips, with_norms_reset
from .tables import results_for_card, table

if TYPE_CHECKING:
    from accelerate import Accelerator

WAIT_SECONDS = 5.0  # for what another process does
ROWS_FILE, TABLE_FILE = "results.jsonl", "table.md"


class Comparison:
    """Jobs in a folder. Started again, what is done is not done again; several processes may share the work.

    Args:
        searches: folders that find_signed_mask wrote.
        fresh: seed -> a freshly initialized network.
        training: of every final training.
        rounds: which of the searches' rounds to start from.
        transfers: keys of TRANSFERS, for every search, or for those of one method (`lrr:mask`); `dense` once a seed.
        seeds: of the initialization and of the data order, n of the tables.
        barrier_rounds: of `rounds`; in these the barrier of each start to the solution is measured (LMC), and it is
            trained twice, for its stability against SGD noise.
        barrier_seeds: of `seeds`, with which starts are trained twice; None: all.
    Raises: ValueError for an unknown transfer, a round that a search does not have, or two searches by one method;
        CheckpointError if output_dir holds a comparison of other searches, data or hyper-parameters.
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
        self.transfers, self.seeds, self.barrier_rounds = tuple(transfers), tuple(seeds), tuple(barrier_rounds)
        self.barrier_seeds = self.seeds if barrier_seeds is None else tuple(barrier_seeds)
        if unknown := [name for name in transfers if name.rpartition(":")[2] not in TRANSFERS]:
            raise ValueError(f"unknown transfer {', '.join(unknown)}; there are {', '.join(TRANSFERS)}")
        self.found = [Found(round_folder(s, index), index) for index in rounds for s in self.searches]
        if missing := [str(found.folder) for found in self.found if not found.folder.is_dir()]:
            raise ValueError(f"no such rounds: {', '.join(missing)}; has the search come so far?")
        names = [found.name for found in self.found]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} of more than one search; compare searches by one method apart")
        if unused := set(barrier_rounds) - set(rounds):
            raise ValueError(f"barrier_rounds {sorted(unused)} are not among the rounds {sorted(rounds)}")

    def jobs(self) -> Iterator[Job]:
        """All of them, the sparsest round first and second trainings last, so that what is done early tells most."""
        yield from (Job(None, "dense", seed, seed) for seed in self.seeds if "dense" in self.transfers)
        first = [
            Job(found, transfer, seed, seed)
            for index in sorted({found.round for found in self.found}, reverse=True)
            for seed in self.seeds
            for found in self.found
            if found.round == index
            for transfer in self._transfers_of(found)
        ]
        yield from first
        yield from (job.other for job in first if self._trained_twice(job))

    def _transfers_of(self, found: Found) -> list[str]:
        split = [name.rpartition(":") for name in self.transfers if name != "dense"]
        return [name for method, _, name in split if method in ("", found.method)]

    def _trained_twice(self, job: Job) -> bool:
        return job.found is not None and job.found.round in self.barrier_rounds and job.seed in self.barrier_seeds

    def run(self) -> list[Row]:
        """Do what is not done, wait for what other processes do, and write results.jsonl, table.md, plots and cards.

        Returns: the rows of results.jsonl.
        """
        settings = {"training": asdict(self.training), "dataset": self.data.name, "images": len(self.data.train)}
        with self.accelerator.main_process_first():
            claim(self.folder, settings, resume=True)
        parts = (self._trainings, self._barriers, self._analyses)
        rows = [row for part in parts for row in self._whole(part)]
        if self.accelerator.is_main_process:
            self._write(rows)
        self.accelerator.wait_for_everyone()
        return rows

    def _whole(self, part: Callable[[], Iterator[Row | None]]) -> list[Row]:
        """All rows of a part; None among them are those that other processes have under way."""
        told = False
        while True:
            rows = list(part())
            done = [row for row in rows if row is not None]
            if len(done) == len(rows):
                return done
            if not told:
                self.accelerator.print(f"{len(rows) - len(done)} jobs are under way in other processes: waiting")
                told = True
            time.sleep(WAIT_SECONDS)

    def _trainings(self) -> Iterator[Row | None]:
        for job in self.jobs():
            try:
                yield self._train(job)
            except Busy:
                yield None

    def _train(self, job: Job) -> Row:
        folder = self.folder / "trainings" / job.name
        if (folder / RESULT_FILE).exists():  # at once, without a network
            return kept(folder / RESULT_FILE, job.found)
        protocol = PROTOCOLS[job.facts()["protocol"]]
        self.accelerator.print(job.name)
        return final_training(
            self._start(job.found, job.transfer, job.seed if protocol.seeded_init else job.data_seed),
            self.data,
            self.training,
            output_dir=folder,
            accelerator=self.accelerator,
            facts=job.facts(),
            seed=job.data_seed,
            recalibrated=protocol.recalibrate,
        )

    def _start(self, found: Found | None, name: str, seed: int) -> nn.Module:
        model, transfer = self.fresh(seed), TRANSFERS[name]
        if found is not None:
            weights = load_weights(found.folder, found.mask) if transfer.needs_weights else None
            transfer_(model, transfer, found.mask, weights=weights, seed=seed)
        return model

    def _trained(self, job: Job) -> nn.Module:
        model = self.fresh(job.seed)
        model.load_state_dict(safetensors.torch.load_file(self.folder / "trainings" / job.name / MODEL_FILE))
        return model.to(self.accelerator.device)

    def _barriers(self) -> Iterator[Row | None]:
        for job in self.jobs():
            if job.found is None or job.found.round not in self.barrier_rounds or job.data_seed != job.seed:
                continue
            ends = {"stability": job.other} if self._trained_twice(job) else {}
            if job.transfer != "solution" and "solution" in self._transfers_of(job.found):
                ends["lmc"] = replace(job, transfer="solution")
            for kind, end in ends.items():
                if any("failed" in self._train(one) for one in (job, end)):
                    continue  # that is told by its row
                yield self._once(f"{kind}-{job.name}", job.found, partial(self._barrier, kind, job, end))

    def _barrier(self, kind: str, job: Job, end: Job) -> Row:
        barrier = error_barrier(
            self._trained(job),
            self._trained(end),
            self.data.test,
            accelerator=self.accelerator,
            train_data=self.data.train,
            batch_size=self.training.batch_size,
        )
        return {**job.facts(), "kind": kind, **asdict(barrier), "barrier": barrier.barrier}

    def _analyses(self) -> Iterator[Row | None]:
        for found in self._every_round:
            yield self._once(f"analysis-{found.name}", found, partial(self._analysis, found))

    @cached_property
    def _every_round(self) -> list[Found]:
        """Of the searches, compared or not."""
        folders = [folder for search in self.searches for folder in sorted(search.glob("round-*"))]
        return [Found(folder, int(folder.name.removeprefix("round-"))) for folder in folders]

    def _analysis(self, found: Found) -> Row:
        """Of the pruned network as the search left it."""
        fresh = self.fresh(0).to(self.accelerator.device)
        psi_init = {name: parameter.detach().clone() for name, parameter in parameters_of(fresh).items()}
        model = self._start(found, "solution", 0).to(self.accelerator.device)
        before = Found(round_folder(found.folder.parent, found.round - 1), found.round - 1)
        return {
            "kind": "analysis",
            **found.facts,
            "sign_flips": sign_flips(before.mask, found.mask) if before.folder.is_dir() else None,
            "negative_gammas": negative_gammas(model),
            "accuracy": self._accuracy(model),
            "accuracy_norms_reset": self._accuracy(with_norms_reset(model, psi_init)),
            "layers": {row.name: row.remaining for row in found.mask.table() if row.prunable},
        }

    def _accuracy(self, model: nn.Module) -> float:
        return accuracy_of(
            model,
            self.data.test,
            train_data=self.data.train,
            batch_size=self.training.batch_size,
            accelerator=self.accelerator,
        )

    def _once(self, name: str, found: Found, make: Callable[[], Row]) -> Row | None:
        """The row kept under `name`; made and kept if there is none. None if another process makes it."""
        from accelerate.utils import broadcast_object_list

        path = self.folder / "measurements" / f"{name}.json"
        lock, main = FileLock(f"{path}.lock"), self.accelerator.is_main_process
        mine = [True]
        if main:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                mine = [False]
        broadcast_object_list(mine)
        if not mine[0]:
            return None
        try:
            if path.exists():
                return kept(path, found)
            text = json.dumps(make()) + "\n"
            self.accelerator.wait_for_everyone()
            if main:
                replace_file(path, text.encode())
            return json.loads(text)
        finally:
            lock.release()

    def _write(self, rows: Sequence[Row]) -> None:
        shared = {"model": self.found[0].architecture, "dataset": self.data.name}
        rows = [{**shared, **row} for row in rows]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        replace_file(self.folder / ROWS_FILE, text.encode())
        replace_file(self.folder / TABLE_FILE, table(rows).encode())
        try:
            draw(rows, self.folder / "plots")
        except ModuleNotFoundError as error:  # an extra
            self.accelerator.print(f"no plots: {error}")
        for found in self.found:
            found.mask.results = tuple(results_for_card(rows, found.method, found.round))
            if found.mask.results:
                found.mask.save_pretrained(self.folder / "masks" / found.name)
