"""Whether a mean over a few seeds lies above, or below, a bound: pure statistics.

Each claim has one value for each seed: a difference between two trainings of one initialization, or a barrier. A
two-sided t test compares their mean with the bound (paired, as the values are differences), the p values of all claims
are corrected by Holm's method, and the side of the bound on which the mean lies decides the verdict.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..summaries import mean_std

HoldsOrNot = Literal["holds", "does not hold", "not enough seeds"]
MOST_SEEDS = 1000  # that `seeds_needed` looks for


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The mean of `values` over all initializations is above, or below, `bound`.

    Args:
        name: to look it up by.
        statement: the same in words.
        values: one a seed, in points of accuracy or error; finite.
        notes: which seeds have no value, and why.
    Raises: ValueError for a value that is NaN or infinite.
    """

    name: str
    statement: str
    values: tuple[float, ...]
    side: Literal["above", "below"]
    bound: float
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if unusable := [value for value in self.values if not math.isfinite(value)]:
            raise ValueError(f"claim '{self.name}': values must be finite, got {unusable[0]}; leave that seed out")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The verdict on a claim, and the figures that it rests on.

    Args:
        mean, std: of its values, and their sample standard deviation; None where there are too few for it.
        low, high: the ends of the interval for the mean; those of all claims hold together with probability 1 - level.
        p: of the two-sided t test of the mean against the bound; None for fewer than two values.
        p_corrected: the same, by Holm's method over all claims.
        seeds_needed: how many would decide the claim if mean and spread stayed as they are, which is a guess; None if
            it is decided, or would take more than MOST_SEEDS, or if there is no spread to judge by.
    """

    claim: Claim
    verdict: HoldsOrNot
    mean: float | None
    std: float | None
    low: float | None
    high: float | None
    p: float | None
    p_corrected: float | None
    seeds_needed: int | None


def judge(claims: Sequence[Claim], *, level: float = 0.05, resolution: float = 0.0) -> list[Finding]:
    """A verdict on each claim. With probability 1 - `level` none of them is `holds` or `does not hold` wrongly.

    Args:
        level: in (0, 1); half of it on either side of the bound.
        resolution: the smallest step of a value, such as 100 / test images. It is the least spread, so that a few
            values that are equal by chance do not seem to be without error.
    Raises: ValueError if `level` is out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    tests = [_p(claim, resolution) for claim in claims]
    corrected = holm([1.0 if p is None else p for p in tests])
    return [
        _finding(claim, p, together, level, len(claims), resolution)
        for claim, p, together in zip(claims, tests, corrected, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected by Holm's step-down method, which bounds the probability of any error among all tests."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = highest
    return corrected


def _p(claim: Claim, resolution: float) -> float | None:
    from scipy.stats import t  # slow to import

    if len(claim.values) < 2:
        return None
    mean, spread = _mean_spread(claim, resolution)
    if spread == 0:
        return float(mean == claim.bound)
    return float(2 * t.sf(abs(mean - claim.bound) * math.sqrt(len(claim.values)) / spread, len(claim.values) - 1))


def _finding(claim: Claim, p: float | None, corrected: float, level: float, claims: int, resolution: float) -> Finding:
    """`claims`: number of all of them."""
    if p is None:
        mean = claim.values[0] if claim.values else None
        empty = dict.fromkeys(("std", "low", "high", "p", "p_corrected", "seeds_needed"))
        return Finding(claim=claim, verdict="not enough seeds", mean=mean, **empty)
    mean, spread = _mean_spread(claim, resolution)
    half = _quantile(level / claims, len(claim.values)) * spread / math.sqrt(len(claim.values))
    decided = corrected < level
    verdict = "holds" if (mean > claim.bound) == (claim.side == "above") else "does not hold"
    return Finding(
        claim=claim,
        verdict=verdict if decided else "not enough seeds",
        mean=mean,
        std=mean_std(claim.values)[1],
        low=mean - half,
        high=mean + half,
        p=p,
        p_corrected=corrected,
        seeds_needed=None if decided else _seeds_needed(abs(mean - claim.bound), spread, level / claims),
    )


def _mean_spread(claim: Claim, resolution: float) -> tuple[float, float]:
    mean, std = mean_std(claim.values)
    return mean, max(std, resolution)


def _quantile(level: float, n: int) -> float:
    """The value that the t statistic of n values exceeds, on either side, with probability `level`."""
    from scipy.stats import t

    return float(t.isf(level / 2, n - 1))


def _seeds_needed(distance: float, spread: float, level: float) -> int | None:
    enough = (n for n in range(2, MOST_SEEDS + 1) if distance * math.sqrt(n) > _quantile(level, n) * spread)
    return next(enough, None)
