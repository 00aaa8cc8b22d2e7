"""The short form of benchmarks/fuzz.py: every file that the package reads, spoiled in some ways."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from fuzz import row, targets

FILES = [
    "signed_mask.safetensors",
    "config.json",
    "weights.safetensors",
    "checkpoint.pt",
    "run.json",
    "result.json",
    "results.jsonl",
]


def test_every_file_that_is_read_is_spoiled(tmp_path):
    assert list(targets(tmp_path)) == FILES


@pytest.mark.parametrize("name", FILES)
def test_a_spoiled_file_is_read_as_it_was_or_refused_as_promised(tmp_path, name):
    found = row(name, targets(tmp_path)[name], 60, random.Random(1))
    assert found["faults"] == []
    assert found["outcomes"]["promised error"] > 20
