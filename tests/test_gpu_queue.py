"""The queue of benchmarks/gpu_queue.py, with pieces that take no GPU."""

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import gpu_queue
from gpu_queue import Piece, run


@pytest.mark.parametrize(("code", "outcome"), [("pass", "done"), ("raise(SystemExit(1))", "failed")])
def test_a_piece_that_ran_to_its_end_is_done_or_has_failed(tmp_path, code, outcome):
    assert run(Piece("a", f"-c {code}", ""), tmp_path, "", seconds=90.0, smoke=False) == outcome
    assert (tmp_path / "a.log").read_text().startswith("$ ")


def test_all_processes_of_a_piece_that_is_cut_off_are_asked_to_stop_at_once(tmp_path, monkeypatch):
    """Each needs most of the time that there is for it."""
    monkeypatch.setattr(gpu_queue, "GRACE", 3.0)
    (tmp_path / "slow.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1.5), print('saved', flush=True), sys.exit(1)))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    start = time.monotonic()
    assert run(Piece("a", f"{tmp_path}/slow.py", "", processes=3), tmp_path, "", seconds=5.0, smoke=False) == "cut off"
    assert time.monotonic() - start < 7
    assert (tmp_path / "a.log").read_text().count("saved") == 3
