"""What a search is: `SignedMaskConfig`, and the methods and protocols it chooses from, which are rows of data."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, Literal

from .criteria import CRITERIA
from .readable import Readable

LineStyle = str | tuple[int, tuple[int, ...]]
PRUNABLE_KINDS = ("conv", "linear", "embedding")


@dataclass(frozen=True)
class Method:
    """How a pruning round differs between methods (Section 3.1; `gm`: Figure 4)."""

    rewind_to: Literal["init", "warmup"] | None  # where parameters go back to after a prune; None: they stay
    interpolate_norm: bool = False  # forward with (psi, psi_init)_alpha in training (Eq. 2)
    # weights stay at init, and scores that choose among them are trained (GemMiner), by one optimizer whose schedule
    # runs over the whole search; all that tie with the last one to be pruned are pruned with it
    scores: bool = False
    # how its lines look in figures, as matplotlib has it: a name, or an offset and dashes; None: by its place
    line: LineStyle | None = field(default=None, compare=False)


METHODS: dict[str, Method] = {
    "imp": Method(rewind_to="init", line=(0, (6, 1, 1, 1, 1, 1))),
    "wr": Method(rewind_to="warmup", line=(0, (8, 3))),
    "lrr": Method(rewind_to=None, line="--"),
    "aws": Method(rewind_to=None, interpolate_norm=True, line="-"),
    "gm": Method(rewind_to=None, scores=True, line="-."),
}


@dataclass(frozen=True)
class Protocol:
    """Where the paper's text and the authors' released code differ in what is computed; docs/notes/protocols.md."""

    prune_first: bool  # a round prunes and then trains under its new mask, instead of training and then pruning
    interpolate_warmup: bool  # alpha is drawn in the warm-up too
    unit_psi_init: bool  # psi_init is scale 1 and bias 0, whatever the model's normalization starts at
    recalibrate: bool  # BatchNorm statistics are re-estimated before an accuracy is measured
    seeded_init: bool  # two trainings that are to differ in SGD noise alone start at the same init
    truncate_survivors: bool  # of n survivors int((1 - rate) n) stay, and all that tie; else floor(rate n) go
    partial_batches: bool  # a last batch of an epoch that is not full is trained on, instead of left out
    unused_layers: bool  # networks have the layers that the authors' own have and never use (models.options_under)


PROTOCOLS: dict[str, Protocol] = {
    "paper": Protocol(
        prune_first=False,
        interpolate_warmup=False,
        unit_psi_init=False,
        recalibrate=True,
        seeded_init=True,
        truncate_survivors=False,
        partial_batches=False,
        unused_layers=False,
    ),
    "released-code": Protocol(
        prune_first=True,
        interpolate_warmup=True,
        unit_psi_init=True,
        recalibrate=False,
        seeded_init=False,
        truncate_survivors=True,
        partial_batches=True,
        unused_layers=True,
    ),
}


# later fields of SignedMaskConfig, and their defaults
_ADDED_LATER = {"criterion": "magnitude", "include": (), "prune_frozen": False}


@dataclass(frozen=True, kw_only=True)
class SignedMaskConfig(Readable):
    """A search for a signed mask: what is pruned, how often, how far, and by which method.

    Give `rounds` or `target_remaining`, not both (unless they agree); neither means 9 rounds, 0.134 remaining.

    Args:
        method: how rounds differ, a row of METHODS.
        rounds: T of Algorithm 1, the number of prunes.
        target_remaining: in (0, 1); sets `rounds` to the first whose share of prunable weights is not above it.
        prune_rate: share of the survivors that goes in a round, in (0, 1).
        warmup_epochs: training epochs before the first round.
        epochs_per_round: training epochs in each round.
        prunable: kinds of layers whose weights may be pruned, of PRUNABLE_KINDS.
        prune_classifier: whether the classifier's weight may be pruned as well.
        classifier: name of the classifier module; None: what the model says of itself, or a guess (partition.md).
        exclude: names or globs (`features.0`, `*.downsample.*`) of modules or parameters not to be pruned.
        include: names or globs likewise of what may be pruned whatever its kind; `exclude` goes before it.
        prune_frozen: whether weights that are frozen (requires_grad=False) when the search starts may be pruned;
            protocols with `unused_layers` prune them in any case, as the released code does.
        protocol: of the paper's text or the authors' code, a row of PROTOCOLS.
        criterion: a row of CRITERIA: what a prune ranks weights by.
        seed: of the stream of alpha, or of the scores of `gm`.
        architecture: free text that tells which network a mask is for; None: the model's class name.

    Raises:
        ValueError: With the field, what it has and what it may have.

    Example:
        >>> from aws_lottery import SignedMaskConfig
        >>> SignedMaskConfig(target_remaining=0.1).rounds  # the first at which 0.8 ** rounds is not above 0.1
        11
    """

    method: str = "aws"
    rounds: int | None = None
    target_remaining: float | None = None
    prune_rate: float = 0.2
    warmup_epochs: int = 10
    epochs_per_round: int = 10
    prunable: tuple[str, ...] = ("conv", "linear")
    prune_classifier: bool = False
    classifier: str | None = None
    exclude: tuple[str, ...] = ()
    protocol: str = "paper"
    seed: int = 0
    architecture: str | None = None
    criterion: str = "magnitude"
    include: tuple[str, ...] = ()
    prune_frozen: bool = False

    def __post_init__(self) -> None:
        for name in ("prunable", "exclude", "include"):  # JSON has lists
            _require(isinstance(getattr(self, name), list | tuple), name, getattr(self, name), "a list of strings")
            object.__setattr__(self, name, tuple(getattr(self, name)))
            _require(all(isinstance(x, str) for x in getattr(self, name)), name, getattr(self, name), "strings")
        for name, rows in (("method", METHODS), ("protocol", PROTOCOLS), ("criterion", CRITERIA)):
            _one_of(name, getattr(self, name), rows)
        if METHODS[self.method].scores:
            expected = f"'magnitude' for method '{self.method}', whose scores are trained"
            _require(self.criterion == "magnitude", "criterion", self.criterion, expected)
        for kind in self.prunable:
            _one_of("prunable", kind, PRUNABLE_KINDS)
        _require(bool(self.prunable), "prunable", self.prunable, f"at least one of {', '.join(PRUNABLE_KINDS)}")
        rate = self.prune_rate
        _require(_is_number(rate) and 0 < 1 - rate < 1, "prune_rate", rate, "in (0, 1)")  # 1e-320 would prune nothing
        for name in ("warmup_epochs", "epochs_per_round", "seed"):
            value = getattr(self, name)
            _require(is_whole(value) and value >= 0, name, value, "a whole number, 0 or more")
        for name in ("classifier", "architecture"):
            value = getattr(self, name)
            _require(value is None or isinstance(value, str), name, value, "a string or None")
        for name in ("prune_classifier", "prune_frozen"):
            _require(isinstance(getattr(self, name), bool), name, getattr(self, name), "true or false")
        object.__setattr__(self, "rounds", self._resolve_rounds())

    def _resolve_rounds(self) -> int:
        rounds, target = self.rounds, self.target_remaining
        if rounds is not None:
            _require(is_whole(rounds) and rounds >= 1, "rounds", rounds, "a whole number, 1 or more")
        if target is None:
            return 9 if rounds is None else rounds
        _require(_is_number(target) and 0 < target < 1, "target_remaining", target, "in (0, 1)")
        needed = self._rounds_from(1.0, target)
        if rounds not in (None, needed):
            raise ValueError(
                f"rounds={rounds} and target_remaining={target} disagree: at prune_rate={self.prune_rate} the target "
                f"takes {needed} rounds; give one of the two"
            )
        return needed

    def _rounds_from(self, remaining: float, target: float) -> int:
        return max(1, math.ceil(math.log(target / remaining) / math.log1p(-self.prune_rate) - 1e-9))

    def starting_at(self, remaining: float) -> "SignedMaskConfig":
        """The search that starts at a mask which leaves this share of the prunable weights: with target_remaining, the
        rounds are those that it takes from there. Raises: ValueError if it is reached already."""
        target = self.target_remaining
        if target is None or remaining == 1:
            return self
        if remaining <= target:
            raise ValueError(f"target_remaining={target} is reached: the mask to start at leaves {remaining:.4g}")
        return replace(self, target_remaining=None, rounds=self._rounds_from(remaining, target))

    @property
    def epochs(self) -> int:
        """Of the whole search, the warm-up included."""
        return self.warmup_epochs + (self.rounds or 0) * self.epochs_per_round

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for files. A field that files did not always have is in it only where it is not the default:
        so runs that were begun before it go on, and older versions read new files."""
        return {k: v for k, v in asdict(self).items() if k not in _ADDED_LATER or v != _ADDED_LATER[k]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SignedMaskConfig":
        """The inverse of `to_dict`. Raises ValueError for an unknown key, with the nearest name."""
        known = [field.name for field in fields(cls)]
        for key in values:
            _one_of("key", key, known)
        return cls(**values)

    def to_json(self) -> str:
        """As JSON, with a key a line."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "SignedMaskConfig":
        """The inverse of `to_json`. Raises ValueError for what is no JSON object or no valid configuration."""
        try:
            values = json.loads(text)
        except (RecursionError, ValueError) as error:
            raise ValueError(f"SignedMaskConfig: not JSON: {error}") from error
        _require(isinstance(values, dict), "JSON", type(values).__name__, "an object")
        return cls.from_dict(values)


def _require(ok: bool, name: str, value: object, expected: str) -> None:
    if not ok:
        raise ValueError(f"SignedMaskConfig: {name} must be {expected}, got {value!r}")


def _one_of(name: str, value: object, allowed: Any) -> None:
    if not isinstance(value, str) or value not in allowed:
        near = get_close_matches(str(value), allowed, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"SignedMaskConfig: unknown {name} {value!r}{hint} (known: {', '.join(allowed)})")


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
