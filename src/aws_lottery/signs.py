"""The algebra of signed masks: pure functions on `name -> Tensor` mappings.

Legend (the paper's letters): theta, all parameters; psi, scale and bias of normalization layers;
psi_init, the same at initialization; m, a mask over the prunable weights (1 kept, 0 pruned);
s = sign0(theta * m), the signed mask; alpha, the interpolation factor of Eq. 2.
Nothing here changes its arguments.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from .criteria import Score, magnitude
from .radix_select import keep, select
from .sharding import counted, local, total
from .summaries import some_text

Tensors = Mapping[str, Tensor]


def sign0(theta: Tensors, mask: Tensors | None = None) -> dict[str, Tensor]:
    """The signed mask s = sign0(theta * m): -1, 0 or +1, and 0 where theta or m is 0 (Algorithm 1, line 11).

    Args:
        theta: name -> parameter, any shape and floating dtype.
        mask: name -> bool or uint8, shaped like theta[name]; a name it lacks is not masked.

    Returns:
        name -> int8, shaped like theta[name].

    Raises:
        ValueError: If a parameter has a NaN or infinite value.

    Example:
        >>> import torch
        >>> from aws_lottery import sign0
        >>> sign0({"w": torch.tensor([0.5, -2.0, 0.1])}, {"w": torch.tensor([True, True, False])})["w"].tolist()
        [1, -1, 0]
    """
    return dict(each_sign0(theta, mask))


def each_sign0(theta: Tensors, mask: Tensors | None = None) -> Iterator[tuple[str, Tensor]]:
    """The items of `sign0`, each made when it is asked for; what `sign0` refuses is refused before the first."""
    mask = mask or {}
    check_finite(theta)
    check_shapes({name: mask[name] for name in theta if name in mask}, theta, "mask")
    for name, value in theta.items():
        signs = value.detach().sign().to(torch.int8)
        yield name, signs.mul_(mask[name]) if name in mask else signs


def interpolate(psi: Tensors, psi_init: Tensors, alpha: Tensor | float) -> dict[str, Tensor]:
    """alpha * psi + (1 - alpha) * psi_init, differentiable in psi (Eq. 2).

    Args:
        psi: name -> normalization parameter as trained.
        psi_init: name -> its value at initialization, same shapes.
        alpha: in [0, 1]; a 0-d tensor (traced as data by torch.compile) or a float.

    Returns:
        name -> tensor, shaped like psi[name].

    Example:
        >>> import torch
        >>> from aws_lottery import interpolate
        >>> interpolate({"bn.weight": torch.tensor([3.0])}, {"bn.weight": torch.tensor([1.0])}, alpha=0.25)
        {'bn.weight': tensor([1.5000])}
    """
    return {
        name: psi_init[name].lerp(value, alpha.to(value) if isinstance(alpha, Tensor) else alpha)
        for name, value in psi.items()
    }


def transfer(theta_init: Tensors, s: Tensors, *, signed: bool = True) -> dict[str, Tensor]:
    """|theta_init| * s: magnitudes of a fresh init, signs and zeros of the mask (Section 3.2); what is 0 stays 0.

    Args:
        theta_init: name -> freshly initialized parameter.
        s: name -> int8 in {-1, 0, 1}; parameters that it does not name pass unchanged.
        signed: False transfers the mask only: theta_init * |s|.

    Returns:
        name -> tensor, for every name of theta_init.

    Raises:
        ValueError: If `s` names a parameter that theta_init lacks, or has another shape, or if a parameter that it
            names has a NaN or infinite value.

    Example:
        >>> import torch
        >>> from aws_lottery import transfer
        >>> s = {"w": torch.tensor([1, -1, 0], dtype=torch.int8)}
        >>> transfer({"w": torch.tensor([-0.5, -2.0, 3.0])}, s)["w"].tolist()
        [0.5, -2.0, 0.0]
    """
    check_shapes(s, theta_init, "signed mask")
    check_finite({name: theta_init[name] for name in s})  # 0 * NaN is no 0
    moved = {
        name: theta_init[name].abs() * value if signed else theta_init[name] * value.abs() for name, value in s.items()
    }
    return {**theta_init, **moved}


def remaining(mask: Tensors) -> float:
    """Share of entries that are not 0, over all tensors together; of a mask or a signed mask.

    Args:
        mask: name -> tensor of any dtype and shape.

    Returns:
        A share, in [0, 1].

    Raises:
        ValueError: If there are no entries.

    Example:
        >>> import torch
        >>> from aws_lottery import remaining
        >>> remaining({"a": torch.tensor([1, 0]), "b": torch.tensor([-1, 0])})
        0.5
    """
    entries = sum(m.numel() for m in mask.values())
    if not entries:
        raise ValueError("remaining needs at least one entry, the mask has none")
    return _count(mask) / entries


def prune(
    theta: Tensors,
    mask: Tensors,
    rate: float,
    *,
    score: Score = magnitude,
    gradients: Tensors = MappingProxyType({}),
    truncate_survivors: bool = False,
    with_ties: bool = False,
) -> dict[str, Tensor]:
    """Drop the survivors with the smallest scores, by default magnitudes, globally (Algorithm 1, line 8).

    floor(rate * survivors) go, `rate` taken as the decimal that it prints as. Equal scores go in
    the order of (name, row-major index), so that neither device nor order of the mapping matters. Exact for
    all floating dtypes. Works tensor by tensor: the extra memory is the new mask, the scores if they are not
    magnitudes, and at most a copy of a tensor that is not contiguous. Weights may be sharded (DTensor), their masks
    alike: the result is that of one process, bit for bit, and no process holds more than its parts.

    Args:
        theta: name -> weight, any shape and floating dtype; may have more names than `mask`.
        mask: name -> bool or uint8, shaped like theta[name]; its keys are what may be pruned.
        rate: share of *survivors* to drop, in [0, 1).
        score: what is ranked, see `Criterion`; called once with each name, weight and gradient.
        gradients: name -> gradient, for scores that need it.
        truncate_survivors: int((1 - rate) * survivors) stay, and all that are as large as the last of them, as in the
            authors' released code, instead of floor(rate * survivors) going.
        with_ties: all survivors go that are as small as the last of these, however many they are.

    Returns:
        A new mask of the same dtypes, nested in `mask`, with exactly that many fewer ones, but for ties where the last
            two arguments say so; `with_ties` goes before `truncate_survivors`.

    Raises:
        ValueError: If the rate is out of range, if names or shapes do not match, if a weight is NaN or infinite, or if
            a score is no score.

    Example:
        >>> import torch
        >>> from aws_lottery import prune
        >>> theta = {"a": torch.tensor([0.1, -0.9]), "b": torch.tensor([0.2, 0.5])}
        >>> mask = {name: torch.ones(2, dtype=torch.bool) for name in theta}
        >>> prune(theta, mask, rate=0.5)
        {'a': tensor([False,  True]), 'b': tensor([False,  True])}
    """
    if not 0 <= rate < 1:
        raise ValueError(f"prune rate must be in [0, 1), got {rate}")
    check_shapes(mask, theta, "mask")
    weights = {name: theta[name].detach() for name in sorted(mask)}
    check_finite(weights)
    survivors = _count(mask)
    share = Fraction(str(rate)) * survivors
    drop = math.ceil(share) if truncate_survivors else math.floor(share)
    if not drop:
        return {name: m.clone() for name, m in mask.items()}
    scores = _scores(weights, score, gradients)
    wide = any(s.dtype == torch.float64 for s in scores.values())
    pruned = sum(m.numel() for m in mask.values()) - survivors
    keep_ties = truncate_survivors and not with_ties and drop < survivors
    # pruned entries have the smallest key, 0, so they only shift the rank: of the last to go, or of the first to stay
    threshold, below = select(scores, mask, pruned + drop - (not keep_ties), wide)
    ties = drop - (below - pruned if threshold else 0)  # how many of the survivors at the threshold must go
    if with_ties or keep_ties:
        ties = survivors if with_ties else 0  # as many as there are, or none
    smaller = {}
    for name, values in scores.items():
        smaller[name], ties = keep(values, mask[name], threshold, ties, wide)
    return {name: smaller[name] for name in mask}


@torch.no_grad()
def _scores(weights: Tensors, score: Score, gradients: Tensors) -> Tensors:
    """The scores to rank. Raises: ValueError for what is no score."""
    if score is magnitude:
        return weights  # without a copy: radix_select leaves signs out
    scores = {name: score(name, weight, gradients.get(name)) for name, weight in weights.items()}
    for name, values in scores.items():
        shape = tuple(weights[name].shape)
        if tuple(values.shape) != shape or not values.is_floating_point():
            found = f"{str(values.dtype).removeprefix('torch.')} of shape {tuple(values.shape)}"
            raise ValueError(f"the score of '{name}' must be a floating tensor of shape {shape}, got {found}")
    if wrong := _marked(scores, lambda values: not _is_finite(values) or bool((values < 0).any())):
        raise ValueError(
            f"the score of '{wrong[0]}' has negative, NaN or infinite entries; scores say how important a weight "
            "is, 0 or more, and the smallest go: take the absolute value, or shift them"
        )
    return scores


def check_shapes(some: Tensors, reference: Tensors, what: str) -> None:
    """Raises ValueError unless every tensor of `some` has one of the same name and shape in `reference`."""
    for name, value in some.items():
        if name not in reference:
            raise ValueError(f"{what} names '{name}', which is not among the parameters")
        if value.shape != reference[name].shape:
            raise ValueError(
                f"{what} for '{name}' has shape {tuple(value.shape)}, the parameter has "
                f"{tuple(reference[name].shape)}; both must be of one model"
            )


def check_initialized(theta: Tensors) -> None:
    """Raises ValueError that names the first tensor without values: on the meta device, or of a lazy layer."""
    if lazy := [name for name, value in theta.items() if is_lazy(value)]:
        raise ValueError(f"{lazy[0]}: a lazy layer that has no shape yet; call the model on a batch first")
    if empty := [name for name, value in theta.items() if value.is_meta]:
        raise ValueError(f"{empty[0]}: on the meta device; initialize the model first (to_empty, then its init)")


def check_floating(theta: Tensors) -> None:
    """Raises ValueError that names the first weight whose entries are no floating numbers of 16 bits or more."""
    for name, value in theta.items():
        if not value.is_floating_point() or value.element_size() < 2:
            raise ValueError(
                f"'{name}' has entries of {value.dtype}; what is pruned must be floating, of 16 bits or more: quantize "
                f"afterwards, or leave it alone by exclude=('{name}',)"
            )


def check_finite(theta: Tensors) -> None:
    """Raises ValueError that names the tensors with NaN or infinite values, or as `check_initialized`."""
    check_initialized(theta)
    if bad := _marked(theta, lambda value: not _is_finite(value)):
        raise ValueError(
            f"NaN or infinite values in {some_text(map(repr, bad))}: magnitudes and signs mean nothing there. "
            "Did training diverge? Go back to the last good checkpoint or lower the learning rate"
        )


def _is_finite(value: Tensor) -> bool:
    return value.numel() == 0 or bool(torch.stack(value.aminmax()).isfinite().all())  # aminmax passes NaN on


@torch.no_grad()
def _marked(tensors: Tensors, is_so: Callable[[Tensor], bool]) -> list[str]:
    """Names of the tensors of which it is so of any process's part; known to all processes."""
    marks = torch.tensor([is_so(local(tensor.detach())) for tensor in tensors.values()], dtype=torch.int64)
    return [name for name, mark in zip(tensors, total(marks, tensors.values()), strict=True) if mark]


@torch.no_grad()
def _count(mask: Tensors) -> int:
    here = sum(int(torch.count_nonzero(local(mask[name]))) for name in counted(mask))
    return int(total(torch.tensor(here), mask.values()))
