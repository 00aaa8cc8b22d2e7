"""Kills runs and fills their disk at random moments, resumes them, and compares: is anything lost, or silently other?

    python benchmarks/kills.py --kills 50

Searches of a small perceptron on the digits, with a checkpoint as often as can be, and a comparison of final trainings
from them. Each trial is interrupted and started again until it has ended by itself; what it leaves is then compared,
number for number, with what a run leaves that nothing happened to. Prints a table; exit status 1 if anything was lost.

- any moment: SIGKILL after a random share of the run's time.
- while saving: SIGKILL at a random one of the run's calls that flush a file to the disk or rename it.
- one of two processes: SIGKILL of one; the other has to end by itself within a minute.
- a full disk: no file may grow beyond a random size (RLIMIT_FSIZE); the run has to end with an error that names a path.
"""

import argparse
import faulthandler
import json
import multiprocessing
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from torch import nn

from aws_lottery import SignedMask, SignedMaskConfig, TrainingConfig, find_signed_mask
from aws_lottery.data import ImageData, digit_images
from aws_lottery.experiments.comparison import Comparison

CONFIG = SignedMaskConfig(rounds=2, warmup_epochs=1, epochs_per_round=1)
TRAINING = TrainingConfig(batch_size=128, epochs=1)
# Each run starts from a process that has imported everything and run nothing: a fork of this one would inherit its
# threads' locks and, inside a test, the accelerate state of other tests.
CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload(["aws_lottery.experiments.comparison", "aws_lottery.data.digits"])
STILL_SECONDS, CPU_SECONDS = (
    60.0,
    120.0,
)  # a run hangs if it does nothing for so long, or works for so long; most take 5
UNCAUGHT = 1  # exit code of a process that an exception ended
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
Prepare = Callable[[], None]


def nothing() -> None:
    pass


def fresh(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    hidden = [nn.Linear(32, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), *hidden, nn.Linear(32, 10))


def accelerator() -> Accelerator:
    torch.set_num_threads(1)
    return Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=True))


def search(data: ImageData, folder: Path) -> None:
    options = {"output_dir": folder, "accelerator": accelerator(), "test_data": data.test, "checkpoint_seconds": 0.0}
    find_signed_mask(fresh(0), data.train, CONFIG, TRAINING, **options)


def compare(data: ImageData, searched: Path, folder: Path) -> None:
    options: dict[str, Any] = {"rounds": (2,), "transfers": ("signs", "mask", "solution"), "seeds": (1,)}
    Comparison([searched], fresh, data, TRAINING, output_dir=folder, accelerator=accelerator(), **options).run()


def left_by_search(folder: Path) -> Any:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    masks = [SignedMask.from_pretrained(folder / f"round-{index:02}") for index in (1, 2)]
    timed = ("seconds", "images_per_second")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines], [
        {name: mask[name].tolist() for name in mask} for mask in masks
    ]


def left_by_comparison(folder: Path) -> Any:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@dataclass
class Trial:
    """A way to run something in processes of its own, and what is done to them.

    Args:
        run: writes to a folder.
        left: what that folder holds in the end, as plain data without times.
        processes: of one run.
    """

    run: Callable[[Path], None]
    left: Callable[[Path], Any]
    processes: int = 1

    def start(self, folder: Path, prepare: Prepare = nothing) -> list[Any]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        started = [CLEAN.Process(target=self._in_process, args=(folder, rank, port, prepare)) for rank in self.ranks]
        for process in started:
            process.start()
        return started

    @property
    def ranks(self) -> range:
        return range(self.processes)

    def _in_process(self, folder: Path, rank: int, port: int, prepare: Prepare) -> None:
        if self.processes > 1:
            names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_CPU")
            values = (rank, rank, self.processes, "127.0.0.1", port, "yes")
            os.environ.update({name: str(value) for name, value in zip(names, values, strict=True)})
        faulthandler.register(signal.SIGUSR1, open(f"{folder}.stack-{rank}", "w"))  # noqa: SIM115  open as long as this
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        try:
            prepare()
            self.run(folder)
        except Exception as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, UNLIMITED)
            Path(f"{folder}.log").write_text("".join(traceback.format_exception(error)))
            os._exit(UNCAUGHT)


def wait_for(processes: list[Any], folder: Path) -> None:
    """Raises: RuntimeError, with their stacks, if a process hangs; by what it does, as the cores may be busy."""
    for process in processes:
        busy, since = -1.0, time.monotonic()
        while process.is_alive():
            process.join(0.2)
            if (now := cpu_seconds(process)) - busy > 0.05:
                busy, since = now, time.monotonic()
            if busy > CPU_SECONDS or time.monotonic() - since > STILL_SECONDS:
                raise RuntimeError(f"a process hangs after {busy:.1f} CPU seconds: {where_they_are(processes, folder)}")


def cpu_seconds(process: Any) -> float:
    try:
        return sum(psutil.Process(process.pid).cpu_times()[:2])
    except psutil.Error:  # it ended just now
        return -1.0


def where_they_are(processes: list[Any], folder: Path) -> str:
    """Their stacks; they end."""
    for process in processes:
        if process.is_alive():
            os.kill(process.pid, signal.SIGUSR1)
            process.join(1.0)
            process.kill()
            process.join()
    return "; ".join(path.read_text() for path in folder.parent.glob(f"{folder.name}.stack-*"))


def to_the_end(trial: Trial, folder: Path) -> bool:
    started = trial.start(folder)
    wait_for(started, folder)
    return all(process.exitcode == 0 for process in started)


def at_any_moment(trial: Trial, folder: Path, whole: float, draw: random.Random) -> bool:
    """Whether the run was killed before it had ended."""
    started = trial.start(folder)
    victim = started[draw.randrange(len(started))]
    victim.join(draw.uniform(0, whole))
    victim.kill()
    wait_for(started, folder)
    return any(process.exitcode for process in started)


def die_at_save(left: int) -> None:
    """Let this process kill itself at the next call but `left` that flushes a file to the disk or renames it."""

    def counted(call: Callable) -> Callable:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return wrapped

    for name in ("fsync", "replace", "rename"):
        setattr(os, name, counted(getattr(os, name)))


def limit_files(size: int) -> None:
    """Let no file of this process grow beyond `size` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, UNLIMITED[1]))


def while_saving(trial: Trial, folder: Path, whole: float, draw: random.Random) -> bool:
    (process,) = trial.start(folder, partial(die_at_save, draw.randrange(60)))
    wait_for([process], folder)
    return bool(process.exitcode)


def with_a_full_disk(trial: Trial, folder: Path, whole: float, draw: random.Random) -> bool:
    size = int(2 ** draw.uniform(6, 17))
    (process,) = trial.start(folder, partial(limit_files, size))
    wait_for([process], folder)
    if process.exitcode not in (0, UNCAUGHT):
        raise RuntimeError(f"a full disk ended the run with exit code {process.exitcode}")
    if process.exitcode and str(folder) not in Path(f"{folder}.log").read_text().splitlines()[-1]:
        raise RuntimeError(f"the error names no path: see {folder}.log")
    return bool(process.exitcode)


def row(name: str, trial: Trial, interrupt: Callable[..., bool], kills: int, root: Path, draw: random.Random) -> dict:
    """Trials until there were so many interruptions."""
    start = time.monotonic()
    assert to_the_end(trial, root / name), f"left alone it fails: {(root / f'{name}.log').read_text()[-2000:]}"
    whole, expected = time.monotonic() - start, trial.left(root / name)
    done, trials, faults = 0, 0, []
    while done < kills:
        folder = root / f"{name}-{trials}"
        trials += 1
        try:
            for _ in range(draw.randint(1, 3)):
                done += interrupt(trial, folder, whole, draw)
            if not to_the_end(trial, folder):
                faults.append(f"{folder.name}: does not go on: {Path(f'{folder}.log').read_text()[-500:]}")
            elif trial.left(folder) != expected:
                faults.append(f"{folder.name}: ended otherwise")
        except RuntimeError as error:
            faults.append(f"{folder.name}: {error}")
    return {"what": name, "interruptions": done, "runs": trials, "seconds a run": f"{whole:.1f}", "faults": faults}


def measure(kills: int, seed: int, only: Sequence[str] = ()) -> Iterator[dict]:
    """The rows of the table, each when it is measured."""
    torch.set_num_threads(1)
    draw, data = random.Random(seed), ImageData(digit_images("train"), digit_images("test"), 10, "digits")  # type: ignore
    alone, two = Trial(partial(search, data), left_by_search), Trial(partial(search, data), left_by_search, processes=2)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        assert to_the_end(alone, root / "searched")
        compared = Trial(partial(compare, data, root / "searched"), left_by_comparison)
        plan = {
            "search, any moment": (alone, at_any_moment),
            "search, while saving": (alone, while_saving),
            "search, full disk": (alone, with_a_full_disk),
            "search, one of two processes": (two, at_any_moment),
            "comparison, any moment": (compared, at_any_moment),
            "comparison, while saving": (compared, while_saving),
        }
        for name in only or plan:
            yield row(name, *plan[name], kills, root, draw)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="interruptions in each row of the table, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=(), help="rows of the table")
    options = parser.parse_args()
    print("| what | interruptions | runs | seconds of a run left alone | lost or other |\n|---|---|---|---|---|")
    faults = []
    for line in measure(options.kills, options.seed, options.only):
        cells = (line["what"], line["interruptions"], line["runs"], line["seconds a run"], len(line["faults"]))
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
        faults += line["faults"]
    sys.exit("\n".join(faults) or 0)


if __name__ == "__main__":
    main()
