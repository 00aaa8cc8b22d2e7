"""The algebra of signed masks of one network: how alike two are, and what several make together.

A signed mask is a set of signed places: a place is in it once, under + or under -, or not at all. `intersection` has
the places that all have under one sign, `difference` those of the first that the second has not under that sign, so
that the two together are the first; `union` adds to the first the places that it lacks. These work on the prunable
tensors; the others (biases, the classifier) are those of the first mask, as a bias of 0 is no pruned bias.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .mask import SignedMask
from .mask_file.packed_signs import entries_of, pack_if_large
from .mask_file.provenance import provenance
from .summaries import some_text

ALL = "all layers"


@dataclass(frozen=True)
class Likeness:
    """How alike two masks are in one layer, each figure beside its value for masks that have nothing to do with one
    another: survivors of the same numbers at places, and signs of the same shares, drawn at random.

    Args:
        name: of the layer's weight; ALL for all layers together.
        weights: places in it.
        remaining: share of places that are in the first mask, and in the second.
        overlap: places in both among those in either (Jaccard); NaN where there are none.
        overlap_by_chance: p q / (p + q - p q), with p and q the two of `remaining`.
        agreement: share with the same sign among the places in both; NaN where there are none.
        agreement_by_chance: u v + (1 - u) (1 - v), with u and v the shares of + that the two have at those places.
    """

    name: str
    weights: int
    remaining: tuple[float, float]
    overlap: float
    overlap_by_chance: float
    agreement: float
    agreement_by_chance: float


def likeness(first: SignedMask, second: SignedMask) -> list[Likeness]:
    """A row for each prunable tensor, in the order of the first mask, and one for all of them at the end.

    The chance levels of the last row are those of masks that have, in each layer, as many survivors as these.

    Raises:
        ValueError: If the masks are not of one network, or without signs.
    """
    _check(first, second)
    counts = [_Counts.of(name, first[name], second[name]) for name in first.prunable]
    return [count.likeness() for count in counts] + [_likeness_of_all(counts)]


def intersection(*masks: SignedMask) -> SignedMask:
    """The places that all masks have under one sign. Raises: ValueError as `likeness`."""
    return _joined("intersection", masks, lambda values: values[0] * (values == values[0]).all(0))


def union(*masks: SignedMask) -> SignedMask:
    """The places that any mask has, under the sign of the first mask that has it. Raises: ValueError as `likeness`."""

    def first_sign(values: Tensor) -> Tensor:
        places = (values != 0).to(torch.uint8).argmax(0, keepdim=True)
        return values.gather(0, places)[0]

    return _joined("union", masks, first_sign)


def difference(first: SignedMask, second: SignedMask) -> SignedMask:
    """The places of the first mask that the second has not under the same sign. Raises: ValueError as `likeness`."""
    return _joined("difference", (first, second), lambda values: values[0] * (values[0] != values[1]))


def consensus(masks: Sequence[SignedMask], *, least: int | None = None) -> SignedMask:
    """The places that at least so many masks have under one sign.

    Args:
        least: in (n / 2, n], so that no place has two signs; None: more than half of the n masks.

    Raises:
        ValueError: If it is out of this range, or as `likeness`.
    """
    n = len(masks)
    least = n // 2 + 1 if least is None else least
    if not n / 2 < least <= n:
        raise ValueError(f"consensus: least must be more than half of the {n} masks and at most all, got {least}")

    def vote(values: Tensor) -> Tensor:
        return ((values > 0).sum(0) >= least).to(torch.int8) - ((values < 0).sum(0) >= least).to(torch.int8)

    return _joined(f"consensus (at least {least})", masks, vote)


@dataclass(frozen=True)
class _Counts:
    """Of places in a layer: all, in the first mask, the second, both; and at the latter, those of one sign."""

    name: str
    weights: int
    first: int
    second: int
    both: int
    same: int
    first_up: int
    second_up: int

    @classmethod
    def of(cls, name: str, a: Tensor, b: Tensor) -> "_Counts":
        both = (a != 0) & (b != 0)
        places = (a != 0, b != 0, both, both & (a == b), both & (a > 0), both & (b > 0))
        return cls(name, a.numel(), *(int(torch.count_nonzero(place)) for place in places))

    def likeness(self) -> Likeness:
        p, q = _ratio(self.first, self.weights), _ratio(self.second, self.weights)
        u, v = _ratio(self.first_up, self.both), _ratio(self.second_up, self.both)
        return Likeness(
            self.name,
            self.weights,
            (p, q),
            overlap=_ratio(self.both, self.first + self.second - self.both),
            overlap_by_chance=_ratio(p * q, p + q - p * q),
            agreement=_ratio(self.same, self.both),
            agreement_by_chance=u * v + (1 - u) * (1 - v),
        )


def _likeness_of_all(counts: Sequence[_Counts]) -> Likeness:
    names = [field.name for field in fields(_Counts) if field.name != "name"]
    sums = {name: sum(getattr(count, name) for count in counts) for name in names}
    total = _Counts(name=ALL, **sums)
    both = sum(_ratio(count.first * count.second, count.weights) for count in counts if count.weights)
    same = sum(count.both * count.likeness().agreement_by_chance for count in counts if count.both)
    row = total.likeness()
    return Likeness(
        row.name,
        row.weights,
        row.remaining,
        row.overlap,
        overlap_by_chance=_ratio(both, total.first + total.second - both),
        agreement=row.agreement,
        agreement_by_chance=_ratio(same, total.both),
    )


def _joined(what: str, masks: Sequence[SignedMask], join: Callable[[Tensor], Tensor]) -> SignedMask:
    """One mask of several, where `join` takes their values at a tensor (masks, *shape) to int8 values (*shape)."""
    first, *others = masks
    for other in others:
        _check(first, other)
    values = (
        (name, join(torch.stack([mask[name] for mask in masks])) if name in first.prunable else first[name])
        for name in first
    )
    limits = (f"It is the {what} of {len(masks)} signed masks; no search found it as it is.",)
    return SignedMask(
        pack_if_large(values, entries_of(first.signs)),
        prunable=first.prunable,
        parameters=first.parameters,
        provenance=provenance(limits=limits),
    )


def _check(first: SignedMask, second: SignedMask) -> None:
    if not (first.signed and second.signed):
        raise ValueError("a mask without signs (SignedMask.binary) takes no part in the algebra of signed masks")
    wrong = [name for name in first if name not in second] + [name for name in second if name not in first]
    here, there = first.shapes, second.shapes
    wrong += [f"{name} {shape}, {there[name]}" for name, shape in here.items() if there.get(name, shape) != shape]
    if wrong:
        raise ValueError(
            f"the masks are not of one network: {len(wrong)} tensors differ: {some_text(wrong)}; "
            "give masks of the same network"
        )
    if odd := sorted(set(first.prunable) ^ set(second.prunable)):
        raise ValueError(f"the masks are of searches that prune other tensors: only one prunes {some_text(odd)}")


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
