"""Linear mode connectivity and stability against SGD noise (Section 3.1)."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn
from tqdm import tqdm

from .bare import bare_model
from .data import Images, ImageSplit, batches
from .training import TrainingConfig, evaluate, recalibrate, train

if TYPE_CHECKING:
    from accelerate import Accelerator

Data = Images | ImageSplit


@dataclass(frozen=True)
class Barrier:
    """Test errors on the line from theta' (alpha 0) to theta (alpha 1), in percent.

    Args:
        alphas: ascending, from 0 to 1.
        errors: of alpha * theta + (1 - alpha) * theta'. Look at both ends: two collapsed networks have no barrier.
    """

    alphas: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def curve(self) -> tuple[float, ...]:
        """E_alpha(theta, theta'): errors less the mean of the two end errors (Eq. 1)."""
        middle = (self.errors[0] + self.errors[-1]) / 2
        return tuple(error - middle for error in self.errors)

    @property
    def barrier(self) -> float:
        """E(theta, theta') = sup over alpha; 0 or more, since one of the ends is not below their mean."""
        return max(self.curve)


def error_barrier(
    a: nn.Module,
    b: nn.Module,
    data: Data,
    *,
    train_data: Data,
    accelerator: "Accelerator",
    points: int = 11,
    batch_size: int = 128,
    recalibrate_batches: int = 20,
    progress: bool = False,
) -> Barrier:
    """The error barrier between two trained networks (Eq. 1).

    All parameters are interpolated, of every kind of layer, and all buffers of floating point. At every point, the ends
    included, BatchNorm's statistics are re-estimated as a plain mean over training batches; without that, a barrier
    between networks with BatchNorm means nothing (the statistics of neither end belong to a network between them).

    Args:
        a: theta; not changed.
        b: theta', a network of the same structure; not changed.
        data: to measure errors on.
        train_data: to re-estimate BatchNorm on, the same batches on every process.
        points: values of alpha, evenly spaced.
        recalibrate_batches: of train_data, of `batch_size` images; 0 evaluates with interpolated statistics.
        progress: whether to show a bar.
    Raises: ValueError if the networks differ in structure, or for less than 3 points.
    """
    if points < 3:
        raise ValueError(f"error_barrier: points must be 3 or more, the ends and one between, got {points}")
    ends = [bare_model(model).state_dict() for model in (a, b)]
    _check_alike(*ends)
    probe = copy.deepcopy(bare_model(a)).to(accelerator.device)
    alphas = [index / (points - 1) for index in range(points)]
    errors = []
    for alpha in tqdm(alphas, desc="barrier", disable=not (progress and accelerator.is_local_main_process)):
        probe.load_state_dict(_between(*ends, alpha))
        if recalibrate_batches:
            recalibrate(probe, batches(train_data, batch_size, seed=0), max_batches=recalibrate_batches)
        errors.append(100 - evaluate(probe, data, accelerator=accelerator))
    return Barrier(tuple(alphas), tuple(errors))


def sgd_stability(
    start: nn.Module,
    data: Data,
    config: TrainingConfig,
    *,
    test_data: Data,
    accelerator: "Accelerator",
    seeds: Sequence[int] = (0, 1),
    points: int = 11,
) -> Barrier:
    """The error barrier between A(start, u) and A(start, u'): small if `start` is stable against SGD noise.

    Args:
        start: not changed; copies of it are trained, held to its mask if it has one.
        data: to train on.
        test_data: to measure errors on.
        seeds: u and u', of the data order.
    Raises: ValueError unless there are two different seeds; as `error_barrier` and `train`.
    """
    if len(seeds) != 2 or seeds[0] == seeds[1]:
        raise ValueError(f"sgd_stability: seeds must be two that differ, got {tuple(seeds)}")
    ends = []
    for seed in seeds:
        model = copy.deepcopy(bare_model(start)).to(accelerator.device)
        train(model, data, config, accelerator=accelerator, seed=seed)
        ends.append(model)
    return error_barrier(
        *ends, test_data, train_data=data, accelerator=accelerator, points=points, batch_size=config.batch_size
    )


def _between(a: Mapping[str, Tensor], b: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """alpha * a + (1 - alpha) * b; what is not floating point is a's."""
    return {
        name: value if not value.is_floating_point() else alpha * value + (1 - alpha) * b[name].to(value.device)
        for name, value in a.items()
    }


def _check_alike(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    for name in sorted({*a, *b}):
        shapes = [tuple(end[name].shape) if name in end else "missing" for end in (a, b)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"error_barrier: '{name}' is {shapes[0]} in the first network and {shapes[1]} in the second; "
                "only networks of the same structure have a line between them"
            )
