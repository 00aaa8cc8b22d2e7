"""What is to be run on a GPU, in order of worth, in pieces that fit short loans of one.

    python benchmarks/gpu_queue.py --dataset TINY_IMAGENET_32 --minutes 9       # again and again, until nothing is left
    python benchmarks/gpu_queue.py --list

A piece that ran to its end is not run again. One that the time cut off is: tests and benchmarks from their start, an
experiment from its last checkpoint (it gets SIGTERM a minute before the end). What a reader needs afterwards (logs,
tables, metrics, plots, masks; no checkpoints) is gathered in OUTPUT_DIR/results.tar. --smoke runs every piece in its
smallest form on any machine.
"""

import argparse
import math
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
GPU = "--mixed_precision bf16 --channels_last --compile"
STEP = "benchmarks/step.py --device cuda --model resnet50 --size 64 --batch 128"
GRACE = 60.0  # seconds to write a checkpoint in
GATHERED = ("*.log", "*.md", "*.json", "*.jsonl", "*.png", "signed_mask.safetensors")


@dataclass(frozen=True)
class Piece:
    """A command; `processes` of it side by side share the work of an experiment."""

    name: str
    command: str
    smoke: str
    processes: int = 1


PIECES = (
    Piece("tests", *["-m pytest -q -m gpu tests/test_gpu.py tests/test_data.py"] * 2),
    Piece(
        "step-fp32",
        STEP,
        "benchmarks/step.py --size 8 --batch 2 --rounds 2 --steps 1",
    ),
    Piece(
        "step-bf16-compiled",
        f"{STEP} --dtype bf16 --channels_last --compile",
        "benchmarks/step.py --size 8 --batch 2 --rounds 2 --steps 1 --channels_last",
    ),
    Piece(
        "together",
        "benchmarks/together.py --device cuda --package --ways vmap grouped --rounds 5",
        "benchmarks/together.py --networks perceptron --counts 2 --ways grouped --rounds 2 --package",
    ),
    Piece("authors", "benchmarks/authors.py --device cuda", "benchmarks/authors.py --smoke"),
    Piece(
        "tiny32-mobilenetv2",
        "recipes/evidence.py tiny32-mobilenetv2 --dataset {dataset} --channels_last --output_dir {folder}",
        "recipes/evidence.py tiny32-mobilenetv2 --smoke --output_dir {folder}",
        processes=3,
    ),
    Piece(
        "tiny32-resnet50",
        f"recipes/evidence.py tiny32-resnet50 --dataset {{dataset}} {GPU} --output_dir {{folder}}",
        "recipes/evidence.py tiny32-resnet50 --smoke --output_dir {folder}",
        processes=2,
    ),
)


def run(piece: Piece, folder: Path, dataset: str, seconds: float, smoke: bool) -> str:
    """`done`, `failed` or `cut off`; all that it prints goes to NAME.log."""
    template = piece.smoke if smoke else piece.command
    command = [sys.executable, *template.format(dataset=dataset, folder=folder / piece.name).split()]
    with open(folder / f"{piece.name}.log", "a") as log:
        print(f"$ {' '.join(command)}", file=log, flush=True)
        processes = [
            subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT) for _ in range(piece.processes)
        ]
        end = time.monotonic() + seconds
        if _ended(processes, end - GRACE):
            return "failed" if any(process.returncode for process in processes) else "done"
        for process in processes:
            process.terminate()  # all at once, as each may take as long as there is
        if not _ended(processes, end):
            for process in processes:
                process.kill()
            _ended(processes, math.inf)
    return "cut off"


def _ended(processes: Sequence[subprocess.Popen], by: float) -> bool:
    """Whether all of them have ended by then; waits for it."""
    while any(process.poll() is None for process in processes) and time.monotonic() < by:
        time.sleep(0.1)
    return all(process.poll() is not None for process in processes)


def gather(folder: Path) -> Path:
    """All small files of the results, in one."""
    path = folder / "results.tar"
    with tarfile.open(path, "w") as tar:
        for pattern in GATHERED:
            for file in sorted(folder.rglob(pattern)):
                tar.add(file, file.relative_to(folder))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="tiny-imagenet-32", help="folder of tiny-imagenet-32")
    parser.add_argument("--minutes", type=float, default=9.0, help="for this call")
    parser.add_argument("--output_dir", default="runs/gpu")
    parser.add_argument("--list", action="store_true", help="print what is done and what is left, run nothing")
    parser.add_argument("--smoke", action="store_true", help="every piece in its smallest form, on any machine")
    options = parser.parse_args()
    folder, end = Path(options.output_dir).resolve(), time.monotonic() + 60 * options.minutes
    folder.mkdir(parents=True, exist_ok=True)
    for piece in PIECES:
        done, left = folder / f"{piece.name}.done", end - time.monotonic()
        if done.exists() or options.list or left < 2 * GRACE:
            print(f"{piece.name}: {'done' if done.exists() else 'left'}", flush=True)
            continue
        start = time.monotonic()
        outcome = run(piece, folder, options.dataset, left, options.smoke)
        if outcome == "done":
            done.touch()
        print(f"{piece.name}: {outcome} after {time.monotonic() - start:.0f} s", flush=True)
    if not options.list:
        size = gather(folder).stat().st_size
        print(f"{folder / 'results.tar'}: {size:,} bytes; {shutil.disk_usage(folder).free >> 30} GiB free")


if __name__ == "__main__":
    main()
