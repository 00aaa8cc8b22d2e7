"""The bar of a run in a terminal, its lines elsewhere, and what commands log."""

import io
import logging
import re
import sys
from types import SimpleNamespace

import pytest
import torch

from aws_lottery.cli.logs import LOGGER, start_logging
from aws_lottery.runs.progress import Progress
from aws_lottery.summaries import duration_text, share_text, size_text

ONE = SimpleNamespace(is_main_process=True, is_local_main_process=True)
METRICS = {"accuracy": 54.205, "loss": 1.25, "seconds": 12.3}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def trained(step: int) -> SimpleNamespace:
    """A training in its second epoch, with a loss of 1.5 so far."""
    return SimpleNamespace(epoch=1, step=step, total_loss=torch.tensor(1.5 * step), config=SimpleNamespace(epochs=9))


def in_terminal(monkeypatch) -> Terminal:
    """To be called in the test: pytest sets sys.stderr anew after the fixtures."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("aws_lottery.runs.progress.LOSS_EVERY", 0.0)
    return terminal


def last_bar(terminal: Terminal) -> str:
    return re.split(r"[\r\n]", terminal.getvalue().strip())[-1]


def test_the_bar_tells_stage_remaining_loss_accuracy_and_time_left(monkeypatch, capsys):
    terminal = in_terminal(monkeypatch)
    with Progress(8, 4, ONE) as progress:
        progress.stage("round 3/15  0.5120 remaining")
        progress.step(trained(1))
        progress.bar.refresh()
        assert re.match(r"round 3/15  0\.5120 remaining  loss 1\.500  62%\|", last_bar(terminal))
        progress.stage_done(METRICS)
        progress.stage("round 4/15  0.4096 remaining")
        progress.bar.refresh()
        assert re.match(r"round 4/15  0\.4096 remaining  accuracy 54\.\d\d  62%\|.* left$", last_bar(terminal))
    assert capsys.readouterr().out == "round 3/15  0.5120 remaining  loss 1.2500  accuracy 54.20  12 s\n"


def test_a_run_of_one_stage_tells_its_epoch(monkeypatch):
    terminal = in_terminal(monkeypatch)
    with Progress(8, 0, ONE) as progress:
        progress.step(trained(2))
        progress.bar.refresh()
        assert last_bar(terminal).startswith("epoch 2/9  loss 1.500  12%|")


def test_there_is_no_bar_in_a_file(monkeypatch, capsys):
    with Progress(8, 0, ONE) as progress:
        progress.stage("warm-up  1.0000 remaining")
        progress.step(trained(1))
        progress.stage_done({"loss": float("nan")})
    assert capsys.readouterr() == ("warm-up  1.0000 remaining  0 s\n", "")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5999, "100 min"), (7200, "2.0 h")]
)
def test_times_are_told_in_the_unit_that_suits_them(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(980, "980 B"), (1200, "1.2 kB"), (3.4e6, "3.4 MB"), (5.6e9, "5.6 GB")])
def test_sizes_are_told_in_the_unit_that_suits_them(size, text):
    assert size_text(size) == text


def test_messages_are_shown_and_kept_with_their_time_and_only_once(monkeypatch, tmp_path):
    terminal = in_terminal(monkeypatch)
    start_logging(str(tmp_path / "before"))
    start_logging(str(tmp_path / "run"))
    logging.getLogger("aws_lottery.data.load").info("images of 32 x 32 pixels " + "and more " * 12)
    logging.getLogger("elsewhere").warning("not ours")
    assert max(map(len, terminal.getvalue().splitlines())) < 80
    assert terminal.getvalue().count("images of") == 1
    text = (tmp_path / "run/log.txt").read_text()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d [\d:,]+ INFO aws_lottery\.data\.load: images of .*\n", text)
    assert not (tmp_path / "before/log.txt").exists()
    start_logging(None)
    assert len([handler for handler in LOGGER.handlers if "aws_lottery" in type(handler).__module__]) == 1


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.0, "1.0000"), (0.5, "0.5000"), (0.0, "0.0000"), (0.0213449, "0.0213"), (3.14159e-5, "3.142e-05")],
)
def test_shares_have_four_digits(share, text):
    assert share_text(share) == text
