"""--report_to: what a search measures reaches a tracker, and a tracker that is missing is missed at once."""

import json
from typing import Any, ClassVar

import pytest
from accelerate import tracking
from accelerate.utils import LoggerType
from test_recipes import run_here


class Kept(tracking.GeneralTracker):
    """A tracker that remembers; accelerate makes it as it makes its own."""

    name: str = "tensorboard"
    requires_logging_directory = True
    all: ClassVar[list["Kept"]] = []

    def __init__(self, run_name: str, logging_dir: str):
        super().__init__()
        self.run_name, self.logging_dir, self.config, self.logged = run_name, logging_dir, {}, []
        self.all.append(self)

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, Any], step: int | None = None, **options: Any) -> None:
        self.logged.append((step, values))


class KeptToo(Kept):
    name: str = "trackio"


def search(monkeypatch, tmp_path, *trackers: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    monkeypatch.setattr("aws_lottery.data.load._folder", lambda cache_dir: tmp_path / "cache")
    arguments = ["--model", "resnet20", "--output_dir", tmp_path / "run", "--report_to", *(trackers or ["tensorboard"])]
    run_here(monkeypatch, "aws_cifar100.py", *arguments)
    return [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]


def test_a_tracker_gets_the_settings_and_every_stage(monkeypatch, tmp_path):
    monkeypatch.setattr(Kept, "all", [])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Kept)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.TENSORBOARD])
    lines = search(monkeypatch, tmp_path)
    (tracker,) = Kept.all
    assert (tracker.run_name, tracker.logging_dir) == ("aws_lottery", str(tmp_path / "run"))
    assert tracker.logged == list(zip([4, 8, 12], lines, strict=True))
    assert {name for name, value in lines[-1].items() if isinstance(value, int | float)} == {
        *("stage", "remaining", "loss", "seconds", "images_per_second", "accuracy")
    }
    expected = {"model": "resnet20", "search.rounds": 2, "training.optimizer": "sgd", "training.ema_decay": "None"}
    assert expected.items() <= tracker.config.items()
    assert all(isinstance(value, bool | int | float | str) for value in tracker.config.values())


@pytest.mark.parametrize("names", [("tensorboard", "trackio"), ("all",)])
def test_several_trackers_get_the_same(monkeypatch, tmp_path, names):
    monkeypatch.setattr(Kept, "all", [])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Kept)
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "trackio", KeptToo)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.TENSORBOARD, LoggerType.TRACKIO])
    lines = search(monkeypatch, tmp_path, *names)
    assert {tracker.name for tracker in Kept.all} == {"tensorboard", "trackio"}
    assert [[values for _, values in tracker.logged] for tracker in Kept.all] == [lines, lines]


@pytest.mark.filterwarnings("ignore")  # tensorboard's own
def test_tensorboard_holds_the_scalars(monkeypatch, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lines = search(monkeypatch, tmp_path)
    events = EventAccumulator(str(tmp_path / "run/aws_lottery")).Reload()
    for name in ("remaining", "loss", "accuracy"):
        scalars = [(event.step, event.value) for event in events.Scalars(name)]
        assert scalars == [(step, pytest.approx(line[name])) for step, line in zip([4, 8, 12], lines, strict=True)]


def test_a_tracker_that_is_not_installed_is_told_before_any_training(monkeypatch, tmp_path):
    monkeypatch.setattr(tracking, "_available_trackers", [])
    with pytest.raises(SystemExit, match=r"--report_to tensorboard needs .*: pip install tensorboard"):
        search(monkeypatch, tmp_path)
    assert not (tmp_path / "run").exists()
