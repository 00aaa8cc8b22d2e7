"""`compare`: final trainings from one or more searches, conditions x rounds x seeds, each run once."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from torch import nn

from ..data import ImageData
from ..mask_file.sparse_weights import load_weights
from ..processes import together
from ..training_config import TrainingConfig
from ..transfers import TRANSFERS, transfer_
from .jobs import Plan, SearchRound, every_round, several
from .report import write_report
from .results import Analysis, Row
from .trainings import Trainings

if TYPE_CHECKING:
    from accelerate import Accelerator


class Comparison:
    """Final trainings from searches, and measurements of them, in a folder.

    A comparison that is started again does only what is not done yet; several processes may share the work.

    Args:
        searches: folders that find_signed_mask wrote, all under one protocol.
        fresh: seed -> a freshly initialized network.
        data: to train and to measure on.
        training: of every final training but those of `own_training`.
        output_dir: where results are kept, a file for each.
        accelerator: what the trainings run on.
        rounds: which of the searches' rounds to start from.
        transfers: keys of TRANSFERS, for every search, or for those of one method (`lrr:mask`); `dense` once a seed.
        seeds: of the initialization and of the data order, n of the tables.
        barrier_rounds: of `rounds`; in these the barrier of each start to the solution is measured (LMC), and it is
            trained twice, for its stability against SGD noise.
        barrier_seeds: of `seeds`, with which starts are trained twice; None: all.
        own_training: method -> training from the masks that its searches found, where it is not `training`; methods
            without a search here may be in it.
        at_once: how many trainings share their steps (`train_many`), where they can, as those of perceptrons can; 1:
            none. Results then differ within what rounding becomes over a training.
        plots: whether to draw; takes matplotlib.

    Raises:
        TypeError: For a single search, round, transfer or seed that is in no list, or a network instead of `fresh`.
        ValueError: For an unknown transfer, a round that a search does not have, two searches by one method, or
            searches under two protocols.

    Example:
        >>> from aws_lottery import Comparison
        >>> rows = Comparison(
        ...     ["runs/aws", "runs/lrr"], fresh, data, training, output_dir="runs/compared",
        ...     accelerator=accelerator, rounds=[9], transfers=["dense", "solution", "signs", "mask"],
        ... ).run()  # doctest: +SKIP
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
        own_training: Mapping[str, TrainingConfig] = MappingProxyType({}),
        at_once: int = 1,
        plots: bool = True,
    ):
        self.searches = [Path(folder) for folder in several("searches", searches)]
        self.folder, self.accelerator, self.plots = Path(output_dir), accelerator, plots
        self.plan = Plan(
            rounds=[SearchRound(search, index) for index in several("rounds", rounds) for search in self.searches],
            transfers=several("transfers", transfers),
            seeds=several("seeds", seeds),
            barrier_rounds=tuple(barrier_rounds),
            barrier_seeds=tuple(seeds if barrier_seeds is None else barrier_seeds),
        )
        _check(self.plan)
        methods = {one.method for one in self.plan.rounds}
        self.trainings = Trainings(
            folder=self.folder,
            fresh=fresh,
            data=data,
            training=training,
            protocol=self.plan.rounds[0].protocol,
            accelerator=accelerator,
            model=self.plan.rounds[0].architecture,
            own_training={method: own_training[method] for method in sorted(methods & own_training.keys())},
            at_once=at_once,
        )

    def run(self) -> list[Row]:
        """Do what is not done, wait for what other processes do, and write results.jsonl, table.md, plots and cards.

        Returns:
            The rows of results.jsonl.

        Raises:
            CheckpointError: If output_dir holds a comparison of other searches, data or hyper-parameters.
            OSError: If output_dir is a file, or can't be written to.
        """
        self.trainings.claim()
        rows = self.trainings.rows(
            [
                lambda: self.trainings.of(self.plan.jobs()),
                lambda: self.trainings.between(self.plan.lines()),
                self._analyses,
            ]
        )
        with together(self.accelerator):
            if self.accelerator.is_main_process:
                try:
                    write_report(self.folder, rows, self.plan.rounds, plots=self.plots)
                except ModuleNotFoundError as error:  # an extra
                    self.accelerator.print(f"no plots: {error}")
        return rows

    def _analyses(self) -> list[Callable[[], Row]]:
        return [
            partial(self.trainings.once, f"analysis-{one.name}", one.origin, partial(self._analysis, one))
            for one in every_round(self.searches)
        ]

    def _analysis(self, search_round: SearchRound) -> Analysis:
        fresh, mask = self.trainings.fresh, search_round.mask
        model = fresh(0)
        transfer_(model, TRANSFERS["solution"], mask, weights=load_weights(search_round.folder, mask))
        return self.trainings.measure.analysis(search_round, model, fresh)


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
