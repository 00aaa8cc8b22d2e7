"""Checkpoints and settings on disk: no flipped bit goes unnoticed, and no kill leaves less than a whole one."""

import json
import os
import random
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from aws_lottery.runs import checkpoint
from aws_lottery.runs.checkpoint import CheckpointError, claim, load, save
from aws_lottery.strict_json import without_checksum

SETTINGS = {"seed": 0, "training": {"learning_rate": 0.1, "milestones": [0.5]}}


def saved(folder: Path, accelerator: Accelerator, *values: float) -> Path:
    for value in values:
        save(folder, {"x": torch.full((3,), value)}, accelerator)
    return folder / "checkpoint.pt"


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_what_is_saved_is_loaded_with_the_random_states(tmp_path, accelerator):
    saved(tmp_path, accelerator, 7.0)
    expected = torch.rand(2), random.random()
    torch.manual_seed(99), random.seed(99)
    state = load(tmp_path, accelerator)
    assert state is not None
    assert state["x"].tolist() == [7.0, 7.0, 7.0]
    assert (torch.rand(2).tolist(), random.random()) == (expected[0].tolist(), expected[1])


def test_no_flipped_bit_of_a_checkpoint_is_loaded(tmp_path, accelerator):
    path = saved(tmp_path, accelerator, 1.0)
    data = path.read_bytes()
    positions = random.Random(0).sample(range(8 * len(data)), 400)
    for bit in [0, 8 * len(data) - 1, *positions]:
        path.write_bytes(flipped(data, bit))
        with pytest.raises(CheckpointError, match=r"can't be read .*delete it to start anew"):
            load(tmp_path, accelerator)


@pytest.mark.parametrize("size", [0, 1, 31, 32, 1000])
def test_a_checkpoint_that_is_cut_off_is_refused(tmp_path, accelerator, size):
    path = saved(tmp_path, accelerator, 1.0)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="can't be read"):
        load(tmp_path, accelerator)


def test_the_last_two_are_there_and_the_error_says_which_is_good(tmp_path, accelerator):
    path = saved(tmp_path, accelerator, 1.0, 2.0, 3.0)
    previous = tmp_path / "checkpoint-previous.pt"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint-previous.pt", "checkpoint.pt"]
    path.write_bytes(flipped(path.read_bytes(), 5000))
    with pytest.raises(CheckpointError, match=r"checkpoint-previous.pt is good: delete checkpoint.pt to go on from"):
        load(tmp_path, accelerator)
    whole = previous.read_bytes()
    previous.write_bytes(flipped(whole, 5000))
    with pytest.raises(CheckpointError, match=r"checkpoint-previous.pt is damaged, too: delete both"):
        load(tmp_path, accelerator)
    path.unlink()
    previous.write_bytes(whole)
    state = load(tmp_path, accelerator)
    assert state is not None
    assert state["x"].tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("renames", [0, 1])
def test_killed_between_two_renames_there_is_a_whole_one(tmp_path, accelerator, monkeypatch, renames):
    saved(tmp_path, accelerator, 1.0)
    real, calls = Path.replace, []

    def replace(self: Path, target: Path) -> Path:
        if len(calls) == renames:
            raise KeyboardInterrupt
        calls.append(target)
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            saved(tmp_path, accelerator, 2.0)
    state = load(tmp_path, accelerator)
    assert state is not None
    assert state["x"].tolist() == [1.0, 1.0, 1.0]
    saved(tmp_path, accelerator, 3.0)
    state = load(tmp_path, accelerator)
    assert state is not None
    assert state["x"].tolist() == [3.0, 3.0, 3.0]


def test_what_is_removed_is_gone(tmp_path, accelerator):
    saved(tmp_path, accelerator, 1.0, 2.0)
    checkpoint.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert load(tmp_path, accelerator) is None


def test_the_same_settings_are_taken_and_others_listed(tmp_path):
    claim(tmp_path, SETTINGS, resume=True)
    claim(tmp_path, SETTINGS, resume=True)
    with pytest.raises(CheckpointError, match="seed: 0 there, 1 now"):
        claim(tmp_path, {**SETTINGS, "seed": 1}, resume=True)
    with pytest.raises(CheckpointError, match="data: None there, 'abc' now"):
        claim(tmp_path, {**SETTINGS, "data": "abc"}, resume=True)


def test_of_two_runs_that_find_a_folder_empty_at_once_one_gets_it(tmp_path, monkeypatch):
    claim(tmp_path, SETTINGS, resume=True)
    monkeypatch.setattr(Path, "exists", lambda self: False)  # as if the others had looked before that
    claim(tmp_path, SETTINGS, resume=True)
    with pytest.raises(CheckpointError, match="seed: 0 there, 1 now"):
        claim(tmp_path, {**SETTINGS, "seed": 1}, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_file_system_without_links_has_runs_too(tmp_path, monkeypatch):
    def no_links(here, there):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    claim(tmp_path / "a", SETTINGS, resume=True)
    with pytest.raises(CheckpointError, match="seed: 0 there, 1 now"):
        claim(tmp_path / "a", {**SETTINGS, "seed": 1}, resume=True)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["run.json"]


def test_settings_that_differ_within_a_group_are_listed_by_themselves(tmp_path):
    claim(tmp_path, {"training": {"batch_size": 8, "momentum": 0.9}, "seed": 0}, resume=True)
    with pytest.raises(CheckpointError) as told:
        claim(tmp_path, {"training": {"batch_size": 4, "momentum": 0.9, "decay": None}, "seed": 0}, resume=True)
    assert str(told.value).splitlines()[1:3] == [
        "  training.batch_size: 8 there, 4 now",
        "  training.decay: 'not set' there, None now",
    ]


def test_no_flipped_bit_of_run_json_changes_settings(tmp_path):
    claim(tmp_path, SETTINGS, resume=True)
    path = tmp_path / "run.json"
    data = path.read_bytes()
    for bit in range(8 * len(data)):
        path.write_bytes(flipped(data, bit))
        try:
            claim(tmp_path, SETTINGS, resume=True)
        except CheckpointError:
            continue
        settings = json.loads(path.read_text())
        assert without_checksum(settings) == SETTINGS  # white space


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "{}", "[" * 100_000, '{"seed": 0', '"seed"'])
def test_a_run_json_that_is_none_is_called_damaged(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"run.json is damaged: .*Take another output folder, or delete"):
        claim(tmp_path, SETTINGS, resume=True)


def test_a_run_json_of_before_is_compared_in_what_it_says(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(SETTINGS))
    claim(tmp_path, {**SETTINGS, "data": "abc"}, resume=True)
    with pytest.raises(CheckpointError, match="seed: 0 there, 1 now"):
        claim(tmp_path, {**SETTINGS, "seed": 1}, resume=True)
