"""Which parameter of a model each tensor of a mask is for: `match`, by names and shapes alone.

In this order: what the caller maps; the same name; the same name under another prefix, if only one prefix fits; the
same name in checkpoints (checkpoint_names.py), under a prefix, too; and, at last and with a warning, the same place in
the order of the model, if all shapes agree. Or that at once, when asked.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile

from .partition import matches

logger = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]  # name -> shape, in the order of the model
Names = Mapping[str, str] | Callable[[str], str]
MATCHES = ("names", "structure")
MIN_SHAPES = 3  # so many different shapes, before their order is taken for a network's


def match(
    mask: Shapes,
    model: Shapes,
    *,
    required: Collection[str] = (),
    head: Collection[str] = (),
    names: Names | None = None,
    exclude: Collection[str] = (),
    by: str = "names",
    aliases: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {}),
) -> dict[str, str]:
    """Name in the mask -> name in the model.

    Args:
        required: names in the model, in its order, that a mask of this network has. Where the mask is for a part of
            the model, those in that part.
        head: names in the mask which, if they differ in shape and all else fits, are left out with a warning.
        names: name in the mask -> name in the model, for those that differ: a mapping or a function.
        exclude: names or globs of modules or parameters, in the mask or in the model, to be left alone.
        by: "names", or "structure": in order, for a network whose names are all others.
        aliases: of the mask and of the model: name -> name in checkpoints, for those that differ.
    Raises: ValueError that lists what does not fit.
    """
    _check(mask, model, exclude, by)
    sides = _Sides(mask, model, [n for n in required if not matches(n, exclude)], head, exclude, aliases)
    if by == "structure":
        return sides.settled(_in_order(sides))
    if names is not None:
        return sides.settled(_as_mapped(mask, names))
    try:
        return _by_name(sides)
    except ValueError as by_name:
        for strategy in (_by_checkpoint_name, _by_order):
            with suppress(ValueError):
                return strategy(sides)
        raise by_name


@dataclass(frozen=True)
class _Sides:
    """The two sides to be paired. Fields are arguments of `match`; `required` is without excluded names."""

    mask: Shapes
    model: Shapes
    required: Collection[str]
    head: Collection[str]
    exclude: Collection[str]
    aliases: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {})

    @property
    def wanted(self) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, shape in self.mask.items() if not matches(name, self.exclude)}

    def settled(self, target: Mapping[str, str], scope: str = "") -> dict[str, str]:
        """`target` without what is excluded by either name, if all else fits and nothing under `scope` is left over."""
        pairs = {name: target[name] for name in self.wanted if not matches(target[name], self.exclude)}
        if not pairs:
            raise ValueError("nothing of it is left to apply; exclude= leaves out too much")
        wrong, taken = _misfits(pairs, self.mask, self.model), set(target.values())
        missing = [name for name in self.required if name.startswith(scope) and name not in taken]
        if wrong and not missing and all(name in self.head and pairs[name] in self.model for name in wrong):
            logger.warning("left as it is, for its shape differs: the classifier (%s)", ", ".join(wrong))
            return {name: place for name, place in pairs.items() if name not in wrong}
        if wrong or missing:
            raise ValueError(_listed([*wrong.values(), *(f"{name}: not in the mask" for name in missing)]))
        return pairs


def _by_name(sides: _Sides) -> dict[str, str]:
    old, scope = _prefixes(sides.wanted, sides.model, sides.head)
    pairs = sides.settled({name: scope + name.removeprefix(old) for name in sides.mask}, scope)
    _log(old, scope, sides.required)
    return pairs


def _by_checkpoint_name(sides: _Sides) -> dict[str, str]:
    """As by name, with the names that both sides have in checkpoints."""
    ours, theirs = (
        {name: alias.get(name, name) for name in shapes}
        for shapes, alias in zip((sides.mask, sides.model), sides.aliases, strict=True)
    )
    here, there = ({old: name for name, old in names.items()} for names in (ours, theirs))
    if not any(sides.aliases) or len(here) < len(ours) or len(there) < len(theirs):
        raise ValueError("neither side has other names, or they are not unique")
    renamed = _Sides(
        {ours[name]: shape for name, shape in sides.mask.items()},
        {theirs[name]: shape for name, shape in sides.model.items()},
        [theirs[name] for name in sides.required],
        [ours[name] for name in sides.head if name in ours],
        [old for names in (ours, theirs) for name, old in names.items() if matches(name, sides.exclude)],
    )
    places = _by_name(renamed)
    logger.info("names differ between versions of the model's library: matched by those in checkpoints")
    return {here[name]: there[place] for name, place in places.items()}


def _by_order(sides: _Sides) -> dict[str, str]:
    """In order, if shapes support it: enough of them differ, and no name that both have is paired with another."""
    target = _in_order(sides)
    if len({*sides.wanted.values()}) < MIN_SHAPES:
        raise ValueError("the order of so few shapes says little")
    if any(name in sides.model and name != place for name, place in target.items()):
        raise ValueError("a name that both sides have is in another place")
    pairs = replace(sides, head=()).settled(target)
    logger.warning(
        "no names fit: the %d tensors of the mask were paired with parameters of the model in order, as all shapes "
        "agree (%s is %s, and so on). Layers of one shape may be swapped: check the pairs, or give them by names=",
        len(pairs),
        *next(iter(pairs.items())),
    )
    return pairs


def _check(mask: Shapes, model: Shapes, exclude: Collection[str], by: str) -> None:
    if by not in MATCHES:
        raise ValueError(f"match must be one of {', '.join(MATCHES)}, got {by!r}")
    if isinstance(exclude, str):
        raise ValueError(f"exclude must be a list of names or globs, got {exclude!r}")
    for pattern in exclude:
        if not any(matches(name, [pattern]) for name in (*mask, *model)):
            raise ValueError(f"exclude pattern {pattern!r} matches nothing in the mask or the model")


def _log(old: str, scope: str, required: Collection[str]) -> None:
    if any(not name.startswith(scope) for name in required):
        logger.warning("the mask is for %r only; the rest of the model is left as it is", scope)
    elif old != scope:
        logger.info("what the mask calls %r is %r in the model", old, scope)


def _misfits(pairs: Mapping[str, str], mask: Shapes, model: Shapes) -> dict[str, str]:
    """Name in the mask -> what is wrong with its counterpart."""
    wrong = {}
    for name, target in pairs.items():
        label = name if name == target else f"{name} (in the model {target})"
        if target not in model:
            wrong[name] = f"{label}: not in the model"
        elif mask[name] != model[target]:
            wrong[name] = f"{label}: shape {mask[name]} in the mask, {model[target]} in the model"
    return wrong


def _listed(wrong: list[str]) -> str:
    shown = wrong[:10] + ([f"and {len(wrong) - 10} more"] if wrong[10:] else [])
    hint = "exclude= leaves parameters alone, names= maps names, match='structure' goes by order and shapes"
    return "\n  ".join([f"{len(wrong)} parameters differ:", *shown]) + f"\n({hint})"


def _prefixes(wanted: Shapes, model: Shapes, head: Collection[str]) -> tuple[str, str]:
    """What every name in the mask starts with, and what the model has instead; both "" if the names fit as they are,
    or under no prefix. Raises: ValueError if several prefixes fit."""
    if all(name in model for name in wanted):
        return "", ""
    # a module and a leaf stay, as some `weight` is found anywhere
    levels = zip(*(name.split(".")[:-2] for name in wanted), strict=False)
    old = "".join(f"{parts[0]}." for parts in takewhile(lambda parts: len(set(parts)) == 1, levels))
    rests = {name.removeprefix(old): shape for name, shape in wanted.items()}
    first = next(iter(rests))
    places = [name.removesuffix(first) for name in model if f".{name}".endswith(f".{first}")]
    fitting = [new for new in places if all(new + rest in model for rest in rests)]
    if len(fitting) > 1:
        sized = {rest: shape for rest, shape in rests.items() if old + rest not in head}
        fitting = [
            new for new in fitting if all(model[new + rest] == shape for rest, shape in sized.items())
        ] or fitting
    if len(fitting) > 1:
        some = ", ".join(map(repr, fitting[:10]))
        raise ValueError(f"its names fit under several prefixes of the model ({some}); say which by names=")
    return (old, fitting[0]) if fitting else ("", "")


def _as_mapped(mask: Shapes, names: Names) -> dict[str, str]:
    if isinstance(names, Mapping):
        if unknown := sorted(names.keys() - mask.keys()):
            raise ValueError(f"names= maps {unknown[:10]}, which the mask does not have")
        targets = {name: names.get(name, name) for name in mask}
    else:
        targets = {name: names(name) for name in mask}
    origin: dict[str, str] = {}
    for name, target in targets.items():
        if origin.setdefault(target, name) != name:
            raise ValueError(f"names= maps both {origin[target]!r} and {name!r} to {target!r}")
    return targets


def _in_order(sides: _Sides) -> dict[str, str]:
    wanted = sides.wanted
    if len(wanted) != len(sides.required):
        raise ValueError(
            f"match='structure' pairs in order, but the mask has {len(wanted)} tensors and the model "
            f"{len(sides.required)} parameters for them; exclude= leaves parameters of either side alone"
        )
    return dict(zip(wanted, sides.required, strict=True))
