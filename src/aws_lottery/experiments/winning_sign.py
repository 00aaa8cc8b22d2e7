"""What makes a signed mask a winning sign: the paper's claims (Sections 3 and 4), as claims about measured rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from .claims import Claim
from .results import Accuracy, Line, LineKind, Row, first_trainings

CONTROLS = {  # a transfer -> what it is that the signs have to beat
    "mask": "the mask alone, with the signs of the init",
    "random-signs": "the same mask with random signs",
    "shuffled-mask": "as many weights in random places, with the signs of the init",
}
LINES: dict[LineKind, str] = {
    "stability": "two trainings from one start with other SGD noise are linearly connected",
    "between-inits": "trainings from two initializations are linearly connected",
    "lmc": "a training from a fresh init is linearly connected to the solution of the search",
}


@dataclass(frozen=True, kw_only=True)
class Margins:
    """Which differences count: `margin`, `barrier_margin` and `level` of `verify`.

    Raises: ValueError for a negative margin, or a level out of range.
    """

    accuracy: float
    barrier: float
    level: float

    def __post_init__(self) -> None:
        for name in ("accuracy", "barrier"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"the margin of {name} must be 0 or more points, got {getattr(self, name)}")
        if not 0 < self.level < 1:
            raise ValueError(f"level must be in (0, 1), got {self.level}")


def claims_of(rows: Sequence[Row], *, chance: float, margins: Margins) -> list[Claim]:
    """The claims that the rows of one mask can be tested for, by name: `dense`, the CONTROLS and the LINES.

    A training that failed (its loss was not finite) counts as a network that guesses. A dense network that does no
    better than guessing can't be compared with, and networks that have learned nothing have no barrier between them:
    such seeds are left out, and the notes of the claim name them.

    Args:
        chance: the accuracy of guessing, in percent.
    """
    trained = {start.transfer: {row.seed: row for row in group} for start, group in first_trainings(rows).items()}
    claims = [_as_good_as_dense(trained, chance, margins)]
    claims += [_beats(control, trained, chance, margins) for control in CONTROLS if control in trained]
    lines = [row for row in rows if isinstance(row, Line) and row.transfer == "signs"]
    seeds = list(trained["signs"])
    connected = [_connected(kind, lines, seeds, chance, margins) for kind in get_args(LineKind)]
    return [*claims, *(claim for claim in connected if claim.name != "lmc" or "solution" in trained)]


Trained = Mapping[str, Mapping[int, Accuracy]]


def _as_good_as_dense(trained: Trained, chance: float, margins: Margins) -> Claim:
    dense = trained["dense"]
    untaught = [seed for seed, row in dense.items() if _accuracy(row, chance) <= chance + margins.accuracy]
    return Claim(
        name="dense",
        statement="a fresh init with the signs trains to the accuracy of the dense network",
        values=_differences(trained, "dense", chance, leave_out=untaught),
        side="above",
        bound=-margins.accuracy,
        notes=(
            *_failures(trained, "dense"),
            *(f"seed {seed} is left out: the dense network has learned nothing" for seed in untaught),
        ),
    )


def _beats(control: str, trained: Trained, chance: float, margins: Margins) -> Claim:
    return Claim(
        name=control,
        statement=f"the signs do better than {CONTROLS[control]}",
        values=_differences(trained, control, chance),
        side="above",
        bound=margins.accuracy,
        notes=_failures(trained, control),
    )


def _connected(kind: LineKind, lines: Sequence[Line], seeds: Sequence[int], chance: float, margins: Margins) -> Claim:
    here = {line.seed: line.barrier for line in lines if line.kind == kind}
    worst = {seed: 100 - max(barrier.ends) for seed, barrier in here.items()}  # accuracy at the worse end
    absent = [seed for seed in seeds if seed not in here and (len(seeds) > 1 or kind != "between-inits")]
    taught = {seed: barrier for seed, barrier in here.items() if worst[seed] > chance + margins.accuracy}
    return Claim(
        name=kind,
        statement=LINES[kind],
        values=tuple(barrier.barrier for barrier in taught.values()),
        side="below",
        bound=margins.barrier,
        notes=(
            *(f"seed {seed} has no line" for seed in absent),
            *(f"seed {seed} is left out: an end has learned nothing" for seed in here if seed not in taught),
        ),
    )


def _differences(trained: Trained, control: str, chance: float, leave_out: Sequence[int] = ()) -> tuple[float, ...]:
    """Accuracy with the signs less that of the control, for each seed."""
    signs, other = trained["signs"], trained[control]
    seeds = [seed for seed in signs if seed in other and seed not in leave_out]
    return tuple(_accuracy(signs[seed], chance) - _accuracy(other[seed], chance) for seed in seeds)


def _accuracy(row: Accuracy, chance: float) -> float:
    return chance if row.after is None else row.after


def _failures(trained: Trained, control: str) -> tuple[str, ...]:
    return tuple(
        f"{transfer} with seed {seed} failed and counts as guessing"
        for transfer in ("signs", control)
        for seed, row in trained[transfer].items()
        if row.after is None
    )
