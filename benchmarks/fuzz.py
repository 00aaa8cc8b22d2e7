"""Spoils every file that the package reads, in thousands of ways: is anything of it read as something else?

    python benchmarks/fuzz.py --mutants 10000

Each file is written by the package itself and then changed: a bit flipped, cut off, pieces of it copied over others or
taken out, or, in JSON, a value replaced by a hostile one and the checksum, if there is one, made to fit, as a stranger
would. What is read must be what was written, or the error that the reader promises; a hostile value may also be taken
if it has the type that the field promises (then it is no damage, but another file). Prints a table, with the slowest
reading and the highest peak of Python's memory; exit status 1 for another outcome.

metrics.jsonl is not among them: runs write it, and keep what they need of it in the checkpoint.
"""

import argparse
import json
import random
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from aws_lottery import Provenance, Result, SignedMask, SignedMaskConfig
from aws_lottery.experiments.results import Accuracy, Line, read_results, row_from_dict, row_to_dict, write_results
from aws_lottery.mask_file.sparse_weights import WEIGHTS_FILE, load_weights, save_weights
from aws_lottery.runs import checkpoint
from aws_lottery.strict_json import CHECKSUM, read_file, to_json, with_checksum

SECONDS, BYTES = 5.0, 200 << 20  # no reading of files of a few kilobytes may take more
HOSTILE = [
    None,
    True,
    -1,
    0,
    3.5,
    1e308,
    10**400,
    "",
    "x",
    "../" * 9,
    "\x00\ud800",
    [],
    [[]],
    {},
    {"a": {"b": [1] * 99}},
]
FILLERS = (b"\x00" * 64, b"\xff" * 64, b"9" * 5000, b"[" * 5000, b'{"a":' * 5000, b"\xf0\x9f")


@dataclass
class Target:
    """A file and how it is read.

    Args:
        path: of the file, as the package wrote it.
        read: gives what is in it as data that `==` compares.
        errors: that `read` promises for a file that is not whole.
        json: whether it holds JSON, an object in all or on each line.
        slowest, peak: seconds and bytes of its readings so far.
    """

    path: Path
    read: Callable[[], Any]
    errors: type[Exception] | tuple[type[Exception], ...] = ValueError
    json: bool = False
    slowest: float = 0.0
    peak: int = 0


def plain(tensors: Any) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in tensors.items()}


def targets(root: Path) -> dict[str, Target]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    with torch.no_grad():
        model[0].weight[0] = 0
    mask = SignedMask.from_model(model, SignedMaskConfig(architecture="tiny", seed=7))
    mask.results = (Result("fresh + signed mask", "digits", [90.5, 92.0], before=[50, 52]),)
    mask.provenance = Provenance(date="2026-11-25", training={"learning_rate": 0.1}, limits=["small"])
    mask.save_pretrained(root)
    save_weights(root, model, mask)
    accelerator, settings = Accelerator(cpu=True), {"seed": 3, "training": {"learning_rate": 0.1}}
    checkpoint.save(root, {"x": torch.arange(5.0), "steps": 12}, accelerator)
    checkpoint.claim(root, settings, resume=True)
    row: dict[str, Any] = {"method": "aws", "round": 9, "remaining": 0.134, "transfer": "signs", "seed": 1}
    rows = [
        Accuracy(**row, data_seed=1, before=10.0, after=73.0),
        Line(**row, kind="lmc", alphas=[0.0, 1.0], errors=[3.0, 4.5]),
    ]
    write_results(root / "results.jsonl", rows)
    (root / "result.json").write_text(to_json(with_checksum(row_to_dict(rows[0])), indent=2))

    def read_mask() -> Any:
        found = SignedMask.from_pretrained(root)
        return (
            plain(found),
            found.prunable,
            found.parameters,
            found.signed,
            found.config,
            found.results,
            found.provenance,
        )

    def read_checkpoint() -> Any:
        state = checkpoint.load(root, accelerator)
        assert state is not None
        return state["x"].tolist(), state["steps"]

    kinds = {
        "signed_mask.safetensors": Target(root / "signed_mask.safetensors", read_mask),
        "config.json": Target(root / "config.json", read_mask, json=True),
        WEIGHTS_FILE: Target(root / WEIGHTS_FILE, lambda: plain(load_weights(root, mask))),
        "checkpoint.pt": Target(root / "checkpoint.pt", read_checkpoint, checkpoint.CheckpointError),
        "run.json": Target(
            root / "run.json",
            lambda: checkpoint.claim(root, settings, resume=True),
            checkpoint.CheckpointError,
            json=True,
        ),
        "result.json": Target(root / "result.json", lambda: row_from_dict(read_file(root / "result.json")), json=True),
        "results.jsonl": Target(root / "results.jsonl", lambda: read_results(root / "results.jsonl"), json=True),
    }
    return kinds


def flipped(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def spliced(data: bytes, draw: random.Random) -> bytes:
    """A piece of it, or a filler, over, between or in the place of another piece."""
    start, stop = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    first = draw.randrange(len(data))
    piece = draw.choice((b"", data[first : first + draw.randint(1, 200)], draw.choice(FILLERS)))
    return data[:start] + piece + data[draw.choice((start, min(start + len(piece), len(data)), stop)) :]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Container and key of every value in it."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def hostile(data: bytes, draw: random.Random) -> bytes:
    """Another value somewhere in the JSON of one of its lines, with a checksum that fits."""
    lines = [data.decode()] if data.startswith(b"{\n") else data.decode().splitlines()
    index = draw.randrange(len(lines))
    values = json.loads(lines[index])
    container, key = draw.choice([place for place in places(values) if place[1] != CHECKSUM])
    container[key] = draw.choice(HOSTILE)
    values.pop(CHECKSUM, None)
    try:
        lines[index] = json.dumps(with_checksum(values))
    except ValueError:  # of more digits than Python prints
        lines[index] = json.dumps({**values, CHECKSUM: ""}, default=str)
    return "\n".join(lines).encode()


def outcome(target: Target, expected: Any, may_differ: bool) -> tuple[str, str]:
    """What came of a reading, and details of what must not."""
    tracemalloc.start()
    begin = time.perf_counter()
    try:
        found = target.read()
        same, fault = found == expected, ""
        name = "as written" if same else "other, of the right types" if may_differ else "OTHER"
    except target.errors:
        name, fault = "promised error", ""
    except Exception as error:
        name, fault = "RAW ERROR", f"{type(error).__name__}: {error!s:.200}"
    seconds, peak = time.perf_counter() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    target.slowest, target.peak = max(target.slowest, seconds), max(target.peak, peak)
    return ("SLOW OR LARGE", f"{seconds:.1f} s, {peak:,} bytes") if seconds > SECONDS or peak > BYTES else (name, fault)


def row(name: str, target: Target, mutants: int, draw: random.Random) -> dict[str, Any]:
    """A line of the table."""
    data, expected = target.path.read_bytes(), target.read()
    ways = [flipped, cut, spliced, *([hostile] if target.json else [])]
    outcomes, faults = Counter(), []
    for index in range(mutants):
        change = ways[index % len(ways)]
        mutant = change(data, draw)
        target.path.write_bytes(mutant)
        what, fault = outcome(target, expected, may_differ=change is hostile)
        outcomes[what] += 1
        if what not in ("as written", "promised error", "other, of the right types"):
            faults.append(f"{name}, mutant {index} ({change.__name__}): {what} {fault}")
    target.path.write_bytes(data)
    assert target.read() == expected
    slowest, peak = target.slowest, target.peak
    return {"file": name, "mutants": mutants, "outcomes": outcomes, "slowest": slowest, "peak": peak, "faults": faults}


def measure(mutants: int, seed: int, only: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """The rows of the table, each when it is measured."""
    with tempfile.TemporaryDirectory() as folder:
        for name, target in targets(Path(folder)).items():
            if name in (only or [name]):
                yield row(name, target, mutants, random.Random(f"{seed} {name}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=10_000, help="of each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=(), help="files")
    options = parser.parse_args()
    print(
        "| file | mutants | promised error | as written | hostile value taken | slowest | peak memory | lost or other |"
    )
    print("|---|---|---|---|---|---|---|---|")
    faults: list[str] = []
    for line in measure(options.mutants, options.seed, options.only):
        counts = [line["outcomes"][what] for what in ("promised error", "as written", "other, of the right types")]
        cells = [
            line["file"],
            line["mutants"],
            *counts,
            f"{1000 * line['slowest']:.0f} ms",
            f"{line['peak'] >> 10:,} KiB",
        ]
        print("| " + " | ".join(map(str, [*cells, len(line["faults"])])) + " |", flush=True)
        faults += line["faults"]
    sys.exit("\n".join(faults[:50]) or 0)


if __name__ == "__main__":
    main()
