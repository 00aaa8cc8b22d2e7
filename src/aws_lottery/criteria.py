"""What a prune ranks weights by: rows of CRITERIA. The survivors with the smallest scores go (Algorithm 1, line 8)."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Score = Callable[[str, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Criterion:
    """A way to rank weights; docs/extending.md adds one.

    Args:
        score: takes a weight's name, the weight, and its gradient or None; returns how important each entry is: a
            floating tensor shaped like the weight, nowhere negative, NaN or infinite. Scores of all weights are ranked
            together, and those of pruned entries do not matter. In a run of several processes each must find the same.
        needs_gradient: whether `score` gets the mean of the weight's gradient over the optimizer steps since the last
            prune, for the price of one more tensor as large as the weights; else it gets None.

    Example:
        >>> from aws_lottery import Criterion
        >>> saliency = Criterion(lambda name, weight, gradient: (weight * gradient).abs(), needs_gradient=True)
    """

    score: Score
    needs_gradient: bool = False


def magnitude(name: str, weight: Tensor, gradient: Tensor | None) -> Tensor:
    """|theta|, the paper's criterion."""
    return weight.abs()


CRITERIA: dict[str, Criterion] = {"magnitude": Criterion(magnitude)}
