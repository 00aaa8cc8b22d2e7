"""Who does what where several runs share folders: a lock that ends with its process, and a queue of jobs over it.

rows = do_all((partial(train, job) for job in jobs), accelerator)  # a job raises Busy if another run is at it
row = written_once(path, partial(measure, model), accelerator)  # measured by one run, read by the others
"""

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock, Timeout

from ..atomic import make_folder, replace_file, temporary_name
from ..processes import any_process, by_first, of_first, together
from ..strict_json import read_file, to_json, with_checksum

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState

T = TypeVar("T")
WAIT_SECONDS = 5.0  # for what another run does


class Busy(RuntimeError):
    """Another run is at work here."""


@contextmanager
def locked(path: Path, accelerator: "Accelerator") -> Iterator[None]:
    """Hold the lock file `path` for all processes of this run; it ends with the block, and with the process.

    Raises: Busy, on all processes, if another run holds it; OSError if the lock can't be made; ValueError as
        `require_shared`.
    """
    lock = FileLock(path)
    with together(accelerator):
        if accelerator.is_main_process:
            make_folder(path.parent)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise Busy(f"another run is under way in {path.parent}; wait for it, or take another folder") from None
    try:
        require_shared(path.parent, accelerator)
        yield
    finally:
        lock.release()


def require_shared(folder: Path, accelerator: "Accelerator | PartialState") -> None:
    """Every process has to call it, with a folder that the first one can write to.

    Raises: ValueError, on all processes, if one of them does not see what the first writes there: on another machine,
        without a disk that they share, or from another working directory.
    """
    if accelerator.num_processes == 1:
        return
    name, place = of_first((temporary_name(), f"{folder.absolute()} on {platform.node()}"), accelerator)
    with together(accelerator):
        if accelerator.is_main_process:
            (folder / name).touch()
    try:
        with together(accelerator):
            if not (folder / name).exists():
                raise ValueError(
                    f"process {accelerator.process_index} does not see what the first process writes to {place}: its "
                    f"own folder is {folder.absolute()} on {platform.node()}. Processes that resume read the same "
                    "files, so the output folder has to lie on a disk that all machines share, named by its full path"
                )
    finally:
        if accelerator.is_main_process:
            (folder / name).unlink(missing_ok=True)


def do_all(jobs: Iterable[Callable[[], T]], accelerator: "Accelerator") -> list[T]:
    """Do each job that no other run has under way, then wait for the rest; returns all results, in the jobs' order.

    Args:
        jobs: each does its work under a lock, and raises Busy if another run holds that; called again later, it gives
            the result that the other run left.
    """
    results: dict[int, T] = {}
    pending, waiting = dict(enumerate(jobs)), False
    while True:
        for index, job in list(pending.items()):
            try:
                results[index] = job()
            except Busy:
                continue
            del pending[index]
        if not pending:
            return [results[index] for index in sorted(results)]
        if not waiting:
            accelerator.print(f"{len(pending)} jobs are under way in other processes: waiting")
            waiting = True
        time.sleep(WAIT_SECONDS)


def written_once(path: Path, make: Callable[[], Mapping[str, Any]], accelerator: "Accelerator") -> dict[str, Any]:
    """What the JSON file `path` holds; if there is none, `make()` is called, by one run alone, and written there.

    Every process has to call it. Raises: Busy if another run is making it; ValueError if the file is damaged.
    """
    with locked(path.with_name(f"{path.name}.lock"), accelerator):
        if not any_process(path.exists(), accelerator):  # the first process may have written it by now
            text = to_json(with_checksum(make())) + "\n"
            by_first(partial(replace_file, path, text.encode()), accelerator)
        return by_first(partial(read_file, path), accelerator)
