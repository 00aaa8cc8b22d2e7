"""What a comparison measures, as typed rows; results.jsonl has one row a line."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from reprlib import repr as short
from types import UnionType
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from ..atomic import replace_file
from ..connectivity import Barrier
from ..strict_json import read_object, to_json, with_checksum, without_checksum
from ..transfers import TRANSFERS

LineKind = Literal["stability", "between-inits", "lmc"]


class Start(NamedTuple):
    """Where trainings start that differ in their seeds alone: a line of a table, a point of a curve."""

    round: int | None
    method: str | None  # None: dense
    transfer: str


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The round of a search that something was measured of; a dense network has neither method nor round, and a mask
    whose search is not known may lack both.

    Args:
        remaining: share of the prunable weights.
        remaining_total: share of all parameters; None: not known.
        protocol: how it was measured, a row of PROTOCOLS.
        signed_mask: the first 16 hexadecimal digits of the SHA-256 of the mask's file.
        model, dataset: what they are called.
    """

    method: str | None = None
    round: int | None = None
    remaining: float = 1.0
    remaining_total: float | None = None
    protocol: str = "paper"
    signed_mask: str | None = None
    model: str | None = None
    dataset: str | None = None


@dataclass(frozen=True, kw_only=True)
class FromStart(Origin):
    """What was measured of networks trained from one start, with one seed of the initialization."""

    transfer: str
    seed: int

    @property
    def start(self) -> Start:
        return Start(self.round, self.method, self.transfer)


@dataclass(frozen=True, kw_only=True)
class Accuracy(FromStart):
    """Top-1 test accuracies of a final training A(theta, u), in percent.

    Args:
        data_seed: u.
        after: None if the training failed.
        failed: why, or None.
        training: hyper-parameters.
    """

    kind: Literal["accuracy"] = "accuracy"
    data_seed: int
    before: float
    after: float | None = None
    failed: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OnLine(FromStart):
    """What was measured on the line to a network trained from `start`, at alpha 1, from another one, at alpha 0.

    Args:
        kind: what the other one is: `stability`, trained from the same start with another data order; `lmc`, the
            solution of the same search and round; `between-inits`, the same start of another initialization.
    """

    kind: LineKind
    alphas: Sequence[float]

    @property
    def barrier(self) -> Barrier:
        """Made of `alphas` and what was measured at each."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Line(OnLine):
    """Test errors on a line, in percent."""

    errors: Sequence[float]

    @property
    def barrier(self) -> Barrier:
        return Barrier(tuple(self.alphas), tuple(self.errors))


@dataclass(frozen=True, kw_only=True)
class Analysis(Origin):
    """The network as a search left it after a round: pruned, and not trained further.

    Args:
        sign_flips: share of the weights left in this round and the one before whose sign differs; None: there is none.
        negative_gammas: share of the scales of normalization layers below 0; None: there are none.
        accuracy: test accuracy in percent.
        accuracy_norms_reset: the same with normalization layers reset to their initialization.
        layers: name of a prunable weight -> the share of it that is left.
    """

    kind: Literal["analysis"] = "analysis"
    sign_flips: float | None
    negative_gammas: float | None
    accuracy: float
    accuracy_norms_reset: float
    layers: Mapping[str, float]


Row = Accuracy | Line | Analysis
ROWS = "rows"  # key of a line of results.jsonl: how many lines were written
KINDS: dict[str, type[Row]] = {
    "accuracy": Accuracy,
    **dict.fromkeys(get_args(LineKind), Line),
    "analysis": Analysis,
}
R = TypeVar("R", bound=FromStart)
K = TypeVar("K", bound=Origin)


def row_from_dict(values: Mapping[str, Any], where: object = "row") -> Row:
    """The row that `row_to_dict` wrote, one of KINDS; as `row_of`."""
    return row_of(KINDS, values, where)


def row_of(kinds: Mapping[str, type[K]], values: Mapping[str, Any], where: object = "row") -> K:
    """A row of the class that `kinds` has for the kind of `values`; keys that are no fields are passed over.

    Args:
        where: it stands, for messages.
    Raises: ValueError for an unknown kind, a key that is missing, or a value of another type.
    """
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"{where}: 'kind' must be one of {', '.join(kinds)}, got {kind!r}")
    needed = [f.name for f in fields(kinds[kind]) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in values]:
        raise ValueError(f"{where}: a row of kind '{kind}' needs {', '.join(missing)}, and has {', '.join(values)}")
    known = {f.name: values[f.name] for f in fields(kinds[kind]) if f.name in values}
    types = get_type_hints(kinds[kind])
    if wrong := next((name for name, value in known.items() if not _is_of(value, types[name])), None):
        raise ValueError(f"{where}: '{wrong}' is {short(known[wrong])}, expected {types[wrong]}")
    return kinds[kind](**known)


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value out of JSON is of the type of a field."""
    outer, inner = get_origin(kind) or kind, get_args(kind)
    if outer is UnionType:
        return any(_is_of(value, one) for one in inner)
    if outer is Literal:
        return value in inner
    if outer is Sequence:
        return isinstance(value, list | tuple) and all(_is_of(x, inner[0]) for x in value)
    if outer is Mapping:
        return isinstance(value, Mapping) and all(_is_of(x, inner[1]) for x in value.values())
    if outer is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return outer is Any or (isinstance(value, outer) and not (outer is int and isinstance(value, bool)))


def row_to_dict(row: Row) -> dict[str, Any]:
    """As plain data; a barrier's figures are added for whoever reads the file without this library."""
    return {**asdict(row), **(row.barrier.figures() if isinstance(row, Line) else {})}


def read_results(path: str | Path) -> list[Row]:
    """The rows of a results.jsonl, or of several put together. Raises: ValueError that names the file, and the line."""
    rows, written = [], []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), start=1):
        where = f"{path}, line {number}"
        try:
            values = without_checksum(read_object(line))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        rows.append(row_from_dict(values, where))
        written.append(values.get(ROWS))
    if not rows:
        raise ValueError(f"{path}: it holds no rows; was it cut off?")
    for total in {total for total in written if isinstance(total, int) and total > 0}:
        if written.count(total) % total:  # of several files put together, each is whole
            raise ValueError(f"{path}: {written.count(total)} rows are there of files of {total}; it was cut off")
    return rows


def write_results(path: str | Path, rows: Iterable[Row]) -> None:
    """Replace the file as a whole by these rows; each tells how many there are, and has a checksum."""
    plain = [row_to_dict(row) for row in rows]
    lines = [to_json(with_checksum({**values, ROWS: len(plain)})) + "\n" for values in plain]
    replace_file(Path(path), "".join(lines).encode())


def transfer_order(transfer: str) -> tuple[int, str]:
    """A key to sort transfers by: as TRANSFERS has them, then those that it does not have."""
    places = list(TRANSFERS)
    return (places.index(transfer) if transfer in TRANSFERS else len(places)), transfer


def by_start(rows: Iterable[R]) -> dict[Start, list[R]]:
    """The rows of each start, densest round first."""
    groups: dict[Start, list[R]] = defaultdict(list)
    for row in rows:
        groups[row.start].append(row)
    order = sorted(groups, key=lambda start: (start.round or 0, start.method or "", transfer_order(start.transfer)))
    return {start: groups[start] for start in order}


def first_trainings(rows: Iterable[Row]) -> dict[Start, list[Accuracy]]:
    """Accuracies of each start, densest round first, one for each seed.

    n counts seeds, so a second training from the same start, there for its stability, is in no mean: of the rows with
    one seed, that with the lowest `data_seed` counts, even if that training failed.
    """
    chosen: dict[tuple[Start, int], Accuracy] = {}
    for row in sorted((row for row in rows if isinstance(row, Accuracy)), key=lambda row: row.data_seed):
        chosen.setdefault((row.start, row.seed), row)
    return by_start(sorted(chosen.values(), key=lambda row: row.seed))
