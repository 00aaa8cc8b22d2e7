"""Locks and the queue: a job is done by one run alone, and its result is had by all."""

import json
from functools import partial

import pytest
from filelock import FileLock

from aws_lottery.runs import lock
from aws_lottery.runs.lock import Busy, do_all, locked, written_once


def test_a_lock_that_another_run_holds_is_busy_and_free_after_it(tmp_path, accelerator):
    with (
        locked(tmp_path / "a" / ".lock", accelerator),
        pytest.raises(Busy, match=r"another run is under way in .*a; wait for it"),
        locked(tmp_path / "a" / ".lock", accelerator),
    ):
        pass
    with locked(tmp_path / "a" / ".lock", accelerator):
        pass


def test_jobs_of_other_runs_are_waited_for_after_all_others_are_done(accelerator, monkeypatch, capsys):
    done, busy = [], {"b"}

    def job(name: str) -> str:
        if name in busy:
            raise Busy
        done.append(name)
        return name.upper()

    monkeypatch.setattr(lock.time, "sleep", lambda seconds: busy.clear())
    assert do_all([partial(job, name) for name in "abc"], accelerator) == ["A", "B", "C"]
    assert done == ["a", "c", "b"]
    assert capsys.readouterr().out == "1 jobs are under way in other processes: waiting\n"


def test_an_error_of_a_job_is_raised(accelerator):
    with pytest.raises(ZeroDivisionError):
        do_all([lambda: 1 // 0], accelerator)


def test_what_is_written_is_not_made_again(tmp_path, accelerator):
    path, made = tmp_path / "measurements" / "a.json", []

    def make() -> dict[str, int]:
        made.append(1)
        return {"x": len(made)}

    assert written_once(path, make, accelerator) == written_once(path, make, accelerator) == {"x": 1}
    assert json.loads(path.read_text())["x"] == 1


@pytest.mark.parametrize("text", ["", "[1]", '{"x": 2', '{"x": 2, "sha256": "0"}'])
def test_what_was_written_and_is_damaged_is_named_with_the_way_out(tmp_path, accelerator, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"cannot read '.*a\.json': .*; delete it to have it made again"):
        written_once(tmp_path / "a.json", dict, accelerator)


def test_what_another_run_is_making_is_busy(tmp_path, accelerator):
    with FileLock(tmp_path / "a.json.lock"), pytest.raises(Busy):
        written_once(tmp_path / "a.json", dict, accelerator)


def test_a_number_that_json_lacks_is_null(tmp_path, accelerator):
    assert written_once(tmp_path / "a.json", lambda: {"x": [float("nan"), 1.0]}, accelerator) == {"x": [None, 1.0]}
