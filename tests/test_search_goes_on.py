"""find_signed_mask goes on for more rounds, starts at a mask, and trains the solution: killed or not, bit for bit."""

import json
import shutil
import signal

import pytest
import torch
from test_search import dict_of, killed_at, search, untimed

from aws_lottery import SignedMask, SignedMaskConfig, TrainingConfig
from aws_lottery.mask_file.sparse_weights import load_weights, solution_weights
from aws_lottery.runs import checkpoint
from aws_lottery.runs.checkpoint import CheckpointError


def config(rounds: int, **values) -> SignedMaskConfig:
    return SignedMaskConfig(rounds=rounds, warmup_epochs=1, epochs_per_round=1, **values)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A search of four rounds."""
    folder = tmp_path_factory.mktemp("four")
    search(folder, config=config(4))
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A search of two rounds."""
    folder = tmp_path_factory.mktemp("two")
    search(folder, config=config(2))
    return folder


@pytest.fixture
def begun(two, tmp_path):
    return shutil.copytree(two, tmp_path / "run")


def weights(folder) -> dict:
    mask = SignedMask.from_pretrained(folder)
    return {name: value.tolist() for name, value in load_weights(folder, mask).items()}


def assert_same(folder, whole) -> None:
    for index in (1, 2, 3, 4):
        assert weights(folder / f"round-0{index}") == weights(whole / f"round-0{index}")
    assert untimed(folder) == untimed(whole)


def test_two_rounds_and_two_more_are_four_rounds_bit_for_bit(begun, four):
    mask = search(begun, config=config(4))
    assert mask == SignedMask.from_pretrained(four / "round-04")
    assert_same(begun, four)
    assert json.loads((begun / "run.json").read_text())["search"]["rounds"] == 4


@pytest.mark.parametrize("step", [2, 6])  # 4 steps a round
def test_a_search_that_goes_on_is_killed_and_goes_on(begun, four, step):
    assert killed_at(step, begun, config=config(4)) == -signal.SIGKILL
    search(begun, config=config(4))
    assert_same(begun, four)


@pytest.mark.parametrize("method", ["imp", "gm"])
def test_methods_that_rewind_or_train_scores_go_on_too(tmp_path, method):
    training = TrainingConfig(batch_size=8, schedule="constant")  # else scores can not go on
    search(tmp_path / "four", config=config(4, method=method), training=training)
    search(tmp_path / "two", config=config(2, method=method), training=training)
    search(tmp_path / "two", config=config(4, method=method), training=training)
    assert_same(tmp_path / "two", tmp_path / "four")


def test_a_search_under_way_may_be_told_to_go_further(tmp_path, four):
    assert killed_at(6, tmp_path, config=config(2)) == -signal.SIGKILL
    search(tmp_path, config=config(4))
    assert_same(tmp_path, four)


def test_fewer_rounds_and_other_settings_are_refused(four, begun):
    with pytest.raises(CheckpointError, match=r"search.rounds: 4 there, 2 now"):
        search(four, config=config(2))
    with pytest.raises(CheckpointError, match=r"search.prune_rate: 0.2 there, 0.3 now"):
        search(begun, config=config(4, prune_rate=0.3))
    with pytest.raises(CheckpointError, match="holds a run already"):
        search(begun, config=config(4), resume=False)


def test_without_its_checkpoint_a_search_can_not_go_on_but_is_read_again(begun):
    (begun / "checkpoint.pt").unlink()
    with pytest.raises(CheckpointError, match=r"done, without a checkpoint to go on from; .*mask='.*round-02'"):
        search(begun, config=config(4))
    assert dict_of(search(begun, config=config(2))) == dict_of(SignedMask.from_pretrained(begun / "round-02"))


def test_a_disk_that_is_full_at_the_end_takes_nothing_from_the_result(two, tmp_path, monkeypatch, caplog):
    real = checkpoint._write

    def full_at_the_end(folder, state):
        if state["more"]["stage"] == 3:
            raise CheckpointError("no room")
        real(folder, state)

    monkeypatch.setattr(checkpoint, "_write", full_at_the_end)
    mask = search(tmp_path, config=config(2))
    assert dict_of(mask) == dict_of(SignedMask.from_pretrained(two / "round-02"))
    assert "can't go on for more rounds from here later: no room" in caplog.text
    assert not list(tmp_path.glob("checkpoint*"))


def test_a_search_starts_at_the_mask_of_a_round_and_says_so(two, tmp_path):
    start = two / "round-02"
    mask = search(tmp_path, config=config(1), mask=start)
    assert [round(row["remaining"] * 192) for row in untimed(tmp_path)] == [124, 124]
    assert round(mask.remaining * 192) == 100
    (before,) = SignedMask.from_pretrained(tmp_path / "round-01").provenance.history
    assert (before["source"], before["config"]["rounds"]) == (str(start), 2)
    assert before["remaining"] == pytest.approx(124 / 192)


def test_a_killed_search_from_a_mask_goes_on_to_the_same_weights(two, tmp_path):
    options = {"config": config(2), "mask": two / "round-02"}
    search(tmp_path / "whole", **options)
    assert killed_at(6, tmp_path / "cut", **options) == -signal.SIGKILL
    search(tmp_path / "cut", **options)
    assert weights(tmp_path / "cut" / "round-02") == weights(tmp_path / "whole" / "round-02")
    history = SignedMask.from_pretrained(tmp_path / "cut" / "round-02").provenance.history
    assert [step["remaining"] for step in history] == [pytest.approx(124 / 192)]


def test_another_mask_to_start_at_is_another_search(two, tmp_path):
    search(tmp_path, config=config(1), mask=two / "round-02")
    for other in (two / "round-01", None):
        with pytest.raises(CheckpointError, match=r"mask: '[0-9a-f]{64}' there, "):
            search(tmp_path, config=config(1), mask=other)


def test_the_solution_is_left_in_the_model_and_in_a_folder_and_the_mask_is_that_of_the_search(two, tmp_path):
    training = TrainingConfig(batch_size=8, max_grad_norm=1.0, milestones=(0.5,))
    mask = search(tmp_path, config=config(2), training=training, solution_epochs=3)
    assert dict_of(mask) == dict_of(SignedMask.from_pretrained(two / "round-02"))
    assert [row["stage"] for row in untimed(tmp_path)] == [0, 1, 2, 3]
    solution = load_weights(tmp_path / "solution", mask)
    assert not torch.equal(solution["1.weight"], solution_weights(tmp_path / "round-02", mask)["1.weight"])
    assert torch.equal(solution["1.weight"] == 0, mask["1.weight"] == 0)
    again = search(tmp_path, config=config(2), training=training, solution_epochs=3)  # only read
    assert dict_of(again) == dict_of(mask)


def test_a_killed_solution_goes_on_to_the_same_weights(tmp_path):
    options = {"config": config(1), "solution_epochs": 3}
    search(tmp_path / "whole", **options)
    assert killed_at(14, tmp_path / "cut", **options) == -signal.SIGKILL
    search(tmp_path / "cut", **options)
    assert weights(tmp_path / "cut" / "solution") == weights(tmp_path / "whole" / "solution")
    assert untimed(tmp_path / "cut") == untimed(tmp_path / "whole")


def test_a_search_whose_solution_was_trained_does_not_go_on(tmp_path):
    search(tmp_path, config=config(1), solution_epochs=1)
    for options in ({}, {"solution_epochs": 1}):
        with pytest.raises(CheckpointError, match="holds a run with other settings"):
            search(tmp_path, config=config(2), **options)
