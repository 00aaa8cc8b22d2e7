"""A run's folder: the short form of benchmarks/kills.py, kills and full disks included."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from kills import measure

pytestmark = pytest.mark.multiprocess


@pytest.mark.filterwarnings("ignore")  # those of the processes that it starts
@pytest.mark.parametrize(
    "what",
    [
        "search, while saving",
        pytest.param("search, full disk", marks=pytest.mark.slow),
        pytest.param("search, one of two processes", marks=pytest.mark.slow),
    ],
)
def test_a_search_that_is_interrupted_ends_as_one_that_is_left_alone(what):
    (row,) = measure(kills=1, seed=0, only=[what])
    assert row["interruptions"] >= 1
    assert row["faults"] == []
