"""What is measured of networks in a comparison: the line between two of them, and the one that a search left."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from ..connectivity import error_barrier
from ..data import ImageData
from ..evaluation import accuracy_of
from ..parameters.unwrap import parameters_of
from .jobs import Job, SearchRound
from .results import Analysis, Line, LineKind, Origin
from .search_statistics import negative_gammas, sign_flips, with_norms_reset

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Measure:
    """How networks are measured: on which data, and whether BatchNorm is re-estimated before an accuracy."""

    data: ImageData
    batch_size: int
    recalibrated: bool
    accelerator: "Accelerator"

    def line(self, kind: LineKind, job: Job, origin: Origin, a: nn.Module, b: nn.Module) -> Line:
        """Errors on the line from `b` to `a`, which `job` trained."""
        barrier = error_barrier(
            a,
            b,
            self.data.test,
            train_data=self.data.train,
            batch_size=self.batch_size,
            accelerator=self.accelerator,
        )
        return Line(**asdict(origin), kind=kind, transfer=job.transfer, seed=job.seed, **asdict(barrier))

    def analysis(self, search_round: SearchRound, model: nn.Module, fresh: Callable[[int], nn.Module]) -> Analysis:
        """Of `model`, the network as the search left it."""
        model = model.to(self.accelerator.device)
        psi_init = {name: parameter.detach().clone() for name, parameter in parameters_of(fresh(0)).items()}
        accuracy = partial(
            accuracy_of,
            test_data=self.data.test,
            train_data=self.data.train,
            batch_size=self.batch_size,
            accelerator=self.accelerator,
        )
        before, gammas = search_round.before, negative_gammas(model)
        return Analysis(
            **asdict(search_round.origin),
            sign_flips=_number(sign_flips(before.mask, search_round.mask)) if before.folder.is_dir() else None,
            negative_gammas=_number(gammas),
            accuracy=accuracy(model, recalibrated=self.recalibrated),
            accuracy_norms_reset=accuracy(with_norms_reset(model, psi_init)),  # the statistics are of another psi
            layers={layer.name: layer.remaining for layer in search_round.mask.table() if layer.prunable},
        )


def _number(share: float) -> float | None:
    """A share of something; None of nothing."""
    return None if math.isnan(share) else share
