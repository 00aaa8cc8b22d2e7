"""Every recipe in its smoke form, as its users start it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aws_lottery import SignedMask

ROOT = Path(__file__).parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def run(command: list[str], recipe: str, folder: Path) -> str:
    return subprocess.run(
        [*command, str(ROOT / "recipes" / recipe), "--smoke", "--output_dir", str(folder)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    ).stdout


@pytest.mark.parametrize("command", [[sys.executable], pytest.param(TORCHRUN, marks=pytest.mark.multiprocess)])
def test_the_digits_recipe_does_the_whole_job(command, tmp_path):
    printed = run(command, "aws_digits.py", tmp_path)
    assert printed.count("| fresh + signed mask |") == 1  # one process speaks
    assert (tmp_path / "table.md").read_text() in printed
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")

    mask = SignedMask.from_pretrained(tmp_path / "mask")
    assert mask.remaining == pytest.approx(0.64, abs=1e-4)
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in metrics if "stage" in line] == [0, 1, 2]
    results = [line for line in metrics if "condition" in line]
    assert len(results) == 5 * 2
    assert all(0 <= line["before"] <= 100 and 0 <= line["after"] <= 100 for line in results)
