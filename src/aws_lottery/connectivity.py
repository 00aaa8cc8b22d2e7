"""Linear mode connectivity and stability against SGD noise (Section 3.1)."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .data import Images, ImageSplit
from .evaluation import evaluate, recalibrate_on_images
from .parameters.unwrap import clean_name, unwrap
from .searched_model import detach
from .training import train
from .training_config import TrainingConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

Data = Images | ImageSplit


@dataclass(frozen=True)
class Barrier:
    """Test errors on the line from theta' (alpha 0) to theta (alpha 1), in percent, or another figure that is low
    where a network is good (`barrier_between`).

    Args:
        alphas: ascending, from 0 to 1.
        errors: of alpha * theta + (1 - alpha) * theta'. Look at both ends: two collapsed networks have no barrier.

    Example:
        >>> from aws_lottery import Barrier
        >>> line = Barrier(alphas=(0.0, 0.5, 1.0), errors=(10.0, 30.0, 12.0))
        >>> line.barrier, line.half_difference, line.over_higher_end
        (19.0, 1.0, 18.0)
    """

    alphas: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def ends(self) -> tuple[float, float]:
        """The errors of theta and of theta'."""
        return self.errors[-1], self.errors[0]

    @property
    def curve(self) -> tuple[float, ...]:
        """E_alpha(theta, theta'): errors less the mean of the two end errors (Eq. 1)."""
        middle = sum(self.ends) / 2
        return tuple(error - middle for error in self.errors)

    @property
    def barrier(self) -> float:
        """E(theta, theta') = sup over alpha (Eq. 1), ends included: `half_difference` + `over_higher_end`."""
        return max(self.curve)

    @property
    def half_difference(self) -> float:
        """Half the difference between the errors of the ends: what Eq. 1 gives without any hump between them."""
        return abs(self.ends[0] - self.ends[1]) / 2

    @property
    def over_line(self) -> float:
        """The largest excess over the straight line between the errors of the two ends; 0 or more."""
        line = (a * self.errors[-1] + (1 - a) * self.errors[0] for a in self.alphas)
        return max(0.0, *(error - straight for error, straight in zip(self.errors, line, strict=True)))

    @property
    def over_higher_end(self) -> float:
        """The largest excess over the higher of the two ends: the height of a hump, 0 where there is none."""
        return max(self.errors) - max(self.ends)

    def figures(self) -> dict[str, float]:
        """Its figures by name, in percent: Eq. 1, and the three that tell what it is made of."""
        names = ("barrier", "half_difference", "over_line", "over_higher_end")
        return {name: getattr(self, name) for name in names}


def error_barrier(
    a: nn.Module,
    b: nn.Module | Mapping[str, Tensor],
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

    All parameters are interpolated, of every kind of layer, and the buffers of floating point in the state_dict; other
    buffers are a's. At every point, the ends included, BatchNorm's statistics are re-estimated as a plain mean over
    training batches; without that, a barrier between networks with BatchNorm means nothing (the statistics of neither
    end belong to a network between them).

    Args:
        a: theta; not changed. A deep copy of it runs, without hold or interpolation but with its other hooks.
        b: theta', a network of the same structure, or its state_dict; not changed.
        data: to measure errors on.
        train_data: to re-estimate BatchNorm on, the same batches on every process.
        accelerator: whose device and processes measure.
        points: values of alpha, evenly spaced.
        batch_size: of evaluation and re-estimation.
        recalibrate_batches: of train_data, of `batch_size` images; 0 evaluates with interpolated statistics.
        progress: whether to show a bar, on the main process.

    Returns:
        The errors at each alpha, from b (0) to a (1).

    Raises:
        ValueError: If the networks differ in structure, or for less than 3 points.

    Example:
        >>> from accelerate import Accelerator
        >>> from torch import nn
        >>> from aws_lottery import error_barrier
        >>> from aws_lottery.data import digit_images
        >>> model, data = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digit_images("test")
        >>> error_barrier(model, model, data, train_data=data, accelerator=Accelerator(cpu=True), points=3).barrier
        0.0
    """

    def error(probe: nn.Module) -> float:
        probe.to(accelerator.device)
        if recalibrate_batches:
            recalibrate_on_images(probe, train_data, batch_size, max_batches=recalibrate_batches)
        return 100 - evaluate(probe, data, accelerator=accelerator)

    return barrier_between(a, b, error, points=points, progress=progress and accelerator.is_main_process)


def barrier_between(
    a: nn.Module,
    b: nn.Module | Mapping[str, Tensor],
    measure: Callable[[nn.Module], float],
    *,
    points: int = 11,
    progress: bool = False,
) -> Barrier:
    """The barrier between two trained networks in any figure that is low where a network is good: the loss of a
    language model, say. Of networks with BatchNorm, `measure` has to re-estimate the statistics first.

    Args:
        a: theta; not changed. A deep copy of it runs, without hold or interpolation but with its other hooks.
        b: theta', a network of the same structure, or its state_dict; not changed.
        measure: the figure of a network; it gets the same copy of `a` for every point, with other weights.
        points: values of alpha, evenly spaced.
        progress: whether to show a bar.

    Returns:
        A Barrier whose `errors` are those figures, in their own unit, from b (0) to a (1).

    Raises:
        ValueError: If the networks differ in structure, or for less than 3 points.

    Example:
        >>> from torch import nn
        >>> from aws_lottery import barrier_between
        >>> model = nn.Linear(1, 1)
        >>> barrier_between(model, model, lambda probe: probe.weight.square().mean().item()).barrier
        0.0
    """
    if points < 3:
        raise ValueError(f"barrier: points must be 3 or more, the ends and one between, got {points}")
    theta = _tensors(unwrap(a).state_dict())
    other = _tensors(unwrap(b).state_dict() if isinstance(b, nn.Module) else b)
    _check_alike(theta, other)
    probe = copy.deepcopy(unwrap(a))
    detach(probe)  # of the copy's own hold: a has another mask than b
    alphas, errors = [index / (points - 1) for index in range(points)], []
    for alpha in tqdm(alphas, desc="barrier", disable=not progress):
        _interpolate_(_tensors(probe.state_dict()), theta, other, alpha)
        errors.append(measure(probe))
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
        config: of both trainings.
        test_data: to measure errors on.
        accelerator: what the trainings run on.
        seeds: u and u', of the data order.
        points: values of alpha, evenly spaced.

    Returns:
        The errors on the line between the two networks.

    Raises:
        ValueError: Unless there are two different seeds; as `error_barrier` and `train`.

    Example:
        >>> from accelerate import Accelerator
        >>> from torch import nn
        >>> from aws_lottery import TrainingConfig, sgd_stability
        >>> from aws_lottery.data import digit_images
        >>> start, data = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digit_images("test")
        >>> one_epoch = TrainingConfig(epochs=1, batch_size=64)
        >>> line = sgd_stability(
        ...     start, data, one_epoch, test_data=data, accelerator=Accelerator(cpu=True), points=3
        ... )
        >>> line.alphas
        (0.0, 0.5, 1.0)
    """
    if len(seeds) != 2 or seeds[0] == seeds[1]:
        raise ValueError(f"sgd_stability: seeds must be two that differ, got {tuple(seeds)}")
    ends = []
    for seed in seeds:
        model = copy.deepcopy(unwrap(start)).to(accelerator.device)
        train(model, data, config, accelerator=accelerator, seed=seed)
        ends.append(model)
    a, b = ends
    return error_barrier(
        a, b, test_data, train_data=data, accelerator=accelerator, points=points, batch_size=config.batch_size
    )


@torch.no_grad()
def _interpolate_(places: Mapping[str, Tensor], a: Mapping[str, Tensor], b: Mapping[str, Tensor], alpha: float) -> None:
    """alpha * a + (1 - alpha) * b, put in place; a's entries where both are equal (infinities too), and integers."""
    for name, place in places.items():
        theta, other = a[name], b[name].to(a[name])
        moves = theta.is_floating_point() or theta.is_complex()
        place.copy_(torch.where(theta == other, theta, other.lerp(theta, alpha)) if moves else theta)


def _tensors(state: Mapping[str, object]) -> dict[str, Tensor]:
    """What can be interpolated of a state_dict, by the names that it has when no part of the model is compiled."""
    return {clean_name(name): value for name, value in state.items() if isinstance(value, Tensor)}


def _check_alike(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    for name in sorted({*a, *b}):
        shapes = [tuple(end[name].shape) if name in end else "missing" for end in (a, b)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"barrier: '{name}' is {shapes[0]} in the first network and {shapes[1]} in the second; "
                "only networks of the same structure have a line between them"
            )
