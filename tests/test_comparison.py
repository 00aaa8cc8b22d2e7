"""Comparisons: what is run, kept, shared, and not run twice."""

import json
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration, debug_launcher
from accelerate.state import AcceleratorState
from filelock import FileLock
from torch import nn

from aws_lottery import SignedMask, SignedMaskConfig, TrainingConfig, find_signed_mask, recalibrate, train
from aws_lottery.data import ImageData, batches, load_data
from aws_lottery.data.made_up import made_up_images
from aws_lottery.experiments.comparison import Comparison
from aws_lottery.experiments.jobs import SearchRound
from aws_lottery.experiments.report import write_report
from aws_lottery.experiments.results import Origin, read_results
from aws_lottery.runs.checkpoint import CheckpointError

TRAINING = TrainingConfig(epochs=1, batch_size=8)


def fresh(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 3 * 3, 4)
        )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> ImageData:
    return load_data(made_up_images(8), cache_dir=tmp_path_factory.mktemp("cache"), workers=0)


def search(folder: Path, data: ImageData, method: str, protocol: str = "paper") -> Path:
    """Of two rounds."""
    config = SignedMaskConfig(
        method=method, protocol=protocol, rounds=2, warmup_epochs=1, epochs_per_round=1, architecture="tiny"
    )
    find_signed_mask(
        fresh(0),
        data.train,
        config,
        TRAINING,
        output_dir=folder,
        accelerator=Accelerator(cpu=True),
        test_data=data.test,
    )
    return folder


@pytest.fixture(scope="module")
def searches(tmp_path_factory, data):
    return [search(tmp_path_factory.mktemp(method), data, method) for method in ("aws", "lrr")]


def comparison(searches, data, folder, **options) -> Comparison:
    options = {"rounds": (2,), "seeds": (1, 2), "barrier_rounds": (2,), "barrier_seeds": (1,), **options}
    return Comparison(searches, fresh, data, TRAINING, output_dir=folder, accelerator=Accelerator(cpu=True), **options)


@pytest.fixture(scope="module")
def compared(searches, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    transfers = ("dense", "solution", "signs", "lrr:signs-norm")
    return comparison(searches, data, folder, transfers=transfers).run(), folder


def test_a_comparison_without_plots_draws_none(searches, data, tmp_path):
    comparison(searches[:1], data, tmp_path, transfers=("signs",), seeds=(1,), barrier_rounds=(), plots=False).run()
    assert (tmp_path / "table.md").exists()
    assert not (tmp_path / "plots").exists()


def kinds(rows, kind, method, transfer) -> list[tuple]:
    rows = [r for r in rows if (r.kind, r.method) == (kind, method) and r.transfer == transfer]
    return sorted((r.seed, r.data_seed) if kind == "accuracy" else r.seed for r in rows)


def test_every_condition_is_trained_with_every_seed_and_twice_where_stability_is_asked(compared):
    rows, _ = compared
    assert kinds(rows, "accuracy", None, "dense") == [(1, 1), (2, 2)]
    assert kinds(rows, "accuracy", "aws", "signs") == [(1, 1), (1, 1001), (2, 2)]
    assert kinds(rows, "accuracy", "lrr", "signs-norm") == [(1, 1), (1, 1001), (2, 2)]
    assert kinds(rows, "accuracy", "aws", "signs-norm") == []
    assert kinds(rows, "stability", "aws", "solution") == [1]
    assert kinds(rows, "lmc", "aws", "signs") == [1, 2]
    assert kinds(rows, "lmc", "aws", "solution") == []
    assert all(0 <= row.after <= 100 and 0 <= row.before <= 100 for row in rows if row.kind == "accuracy")


def test_results_are_written_as_rows_table_plots_and_cards(compared):
    rows, folder = compared
    kept = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert read_results(folder / "results.jsonl") == rows
    assert {row["model"] for row in kept} == {"tiny"}
    assert "AWS solution" in (folder / "table.md").read_text()
    assert (folder / "plots" / "accuracy.png").stat().st_size > 0
    mask = SignedMask.from_pretrained(folder / "masks" / "aws-round-02")
    measured = {result.condition: result.values for result in mask.results}
    signs = [
        row["after"] for row in kept if (row["method"], row.get("transfer")) == ("aws", "signs") and "after" in row
    ]
    assert measured["fresh + signed mask"][0] == signs[0]


def test_an_analysis_of_each_round_is_kept(compared):
    rows, _ = compared
    first, row = (row for row in rows if row.kind == "analysis" and row.method == "lrr")
    assert (first.round, first.sign_flips) == (1, None)
    assert 0 <= row.sign_flips <= 1
    assert 0 <= row.accuracy_norms_reset <= 100
    assert row.layers["0.weight"] == pytest.approx(0.64, abs=0.01)


def test_what_is_done_is_not_done_again(compared, searches, data, monkeypatch):
    rows, folder = compared
    monkeypatch.setattr("aws_lottery.experiments.trainings.final_training", None)
    monkeypatch.setattr("aws_lottery.experiments.measurements.error_barrier", None)
    again = comparison(searches, data, folder, transfers=("dense", "solution", "signs", "lrr:signs-norm"))
    assert again.run() == rows


def test_runs_that_are_done_together_report_one_after_the_other(compared, tmp_path, monkeypatch):
    """Two at once would take one another's files away (SignedMask.save_pretrained)."""
    monkeypatch.setattr("aws_lottery.experiments.report.draw", lambda rows, folder: None)
    reporting = Thread(target=write_report, args=(tmp_path, compared[0], []))
    with FileLock(tmp_path / "report.lock"):
        reporting.start()
        reporting.join(0.2)
        assert [path.name for path in tmp_path.iterdir()] == ["report.lock"]
    reporting.join()
    assert (tmp_path / "table.md").is_file()


def test_what_another_process_does_is_left_to_it_and_waited_for(searches, data, tmp_path, capsys, monkeypatch):
    job = tmp_path / "trainings" / "aws-round-02-signs-seed1-u1"
    job.mkdir(parents=True)
    other = FileLock(job / ".lock")
    other.acquire()
    done_meanwhile = []

    def wait(seconds: float) -> None:
        done_meanwhile.extend(path.parent.name for path in (tmp_path / "trainings").glob("*/result.json"))
        other.release()

    monkeypatch.setattr("aws_lottery.runs.lock.time.sleep", wait)
    rows = comparison(searches, data, tmp_path, transfers=("signs",), seeds=(1,), barrier_rounds=()).run()
    assert done_meanwhile == ["lrr-round-02-signs-seed1-u1"]
    assert "1 jobs are under way in other processes: waiting" in capsys.readouterr().out
    assert [row.method for row in rows if row.kind == "accuracy"] == ["aws", "lrr"]


def test_a_training_that_diverges_is_a_result(searches, data, tmp_path):
    diverging = Comparison(
        searches[:1],
        fresh,
        data,
        TrainingConfig(epochs=1, batch_size=8, learning_rate=1e30),
        output_dir=tmp_path,
        accelerator=Accelerator(cpu=True),
        rounds=(2,),
        transfers=("dense", "solution", "signs"),
        seeds=(1,),
        barrier_rounds=(2,),
    )
    failed = [row for row in diverging.run() if row.kind == "accuracy"]
    assert all("the loss is" in row.failed and row.after is None for row in failed)
    assert len(failed) == 5  # and no barrier to what was not trained


def test_what_was_measured_otherwise_is_not_taken_for_this(compared, searches, data, monkeypatch):
    _, folder = compared
    other = comparison(searches, data, folder, transfers=("signs",))
    other.trainings = replace(other.trainings, training=TrainingConfig(epochs=2, batch_size=8))
    with pytest.raises(CheckpointError, match="holds a run with other settings"):
        other.run()
    wrong = comparison(searches[:1], data, folder, transfers=("signs",))
    monkeypatch.setattr(SearchRound, "origin", Origin(signed_mask="another"))
    with pytest.raises(CheckpointError, match="is of another search: its signed mask is"):
        wrong.run()


def test_what_starts_from_a_method_with_a_training_of_its_own_is_trained_by_it(searches, data, tmp_path):
    folders = [searches[0], search(tmp_path / "search", data, "gm")]
    options = {"transfers": ("dense", "signs"), "seeds": (1,), "barrier_rounds": ()}
    own = {"gm": replace(TRAINING, learning_rate=0.01), "wr": TRAINING}  # no search here is by wr
    rows = comparison(folders, data, tmp_path / "compared", own_training=own, **options).run()
    rates = {row.method: row.training["learning_rate"] for row in rows if row.kind == "accuracy"}
    assert rates == {None: 0.1, "aws": 0.1, "gm": 0.01}
    with pytest.raises(CheckpointError, match="holds a run with other settings"):
        comparison(folders, data, tmp_path / "compared", own_training={"gm": TRAINING}, **options).run()


def warmed_up(data: ImageData) -> nn.Module:
    model = fresh(0)
    config = replace(TRAINING, schedule="constant")
    train(model, data.train, config, accelerator=Accelerator(cpu=True), seed=0)
    return model


@pytest.mark.parametrize("method", ["imp", "wr"])
def test_the_solution_of_a_method_that_rewinds_starts_from_what_it_rewinds_to(method, data, tmp_path):
    """A(theta_0 * m_T) and A(theta_warmup * m_T), Section 3.1."""
    folder = search(tmp_path / "search", data, method)
    start = comparison([folder], data, tmp_path / "compared").trainings.start(
        SearchRound(folder, 2), "solution", seed=1
    )
    rewound, mask = fresh(0) if method == "imp" else warmed_up(data), SignedMask.from_pretrained(folder / "round-02")
    with torch.no_grad():
        rewound[0].weight.mul_(mask["0.weight"] != 0)
    assert rewound[0].weight.eq(0).any()
    for value, expected in zip(start.parameters(), rewound.parameters(), strict=True):
        assert torch.equal(value, expected)

    (folder / "round-02" / "rewound.safetensors").unlink()  # as searches left it that kept trained weights alone
    with pytest.raises(FileNotFoundError, match=f"solution of '{method}' starts from the weights that it rewinds to"):
        comparison([folder], data, tmp_path / "compared").run()


def test_under_released_code_a_solution_starts_at_the_accuracy_that_its_search_reported(data, tmp_path):
    folder = search(tmp_path / "search", data, "aws", "released-code")
    reported = [json.loads(line)["accuracy"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    one = comparison([folder], data, tmp_path / "compared", transfers=("dense", "solution"), seeds=(1,))
    rows = one.run()
    solution = next(row for row in rows if row.kind == "accuracy" and row.transfer == "solution")
    assert solution.before == reported[2]
    assert [row.accuracy for row in rows if row.kind == "analysis"] == reported[1:]
    assert {row.protocol for row in rows} == {"released-code"}  # dense too

    start = one.trainings.start(SearchRound(folder, 2), "solution", seed=1)
    assert start[1].num_batches_tracked == 3 * (32 // 8)  # of a warm-up and two rounds: what the search left
    recalibrate(start, batches(data.train, 8, seed=0))
    assert start[1].num_batches_tracked == 32 // 8


def _on_each_rank(searches, data, folder):
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=True))
    assert accelerator.num_processes == 2
    options = {"rounds": (2,), "seeds": (1,), "transfers": ("dense", "solution", "signs"), "barrier_rounds": (2,)}
    rows = Comparison(searches, fresh, data, TRAINING, output_dir=folder, accelerator=accelerator, **options).run()
    assert read_results(folder / "results.jsonl") == rows  # the same on both
    accelerator.end_training()


@pytest.mark.multiprocess
@pytest.mark.filterwarnings("ignore")  # torch.distributed's own
def test_two_processes_do_each_job_together_and_write_each_row_once(searches, data, tmp_path):
    debug_launcher(_on_each_rank, args=(searches[:1], data, tmp_path), num_processes=2)
    rows = read_results(tmp_path / "results.jsonl")
    assert kinds(rows, "accuracy", None, "dense") == [(1, 1)]
    assert kinds(rows, "accuracy", "aws", "signs") == [(1, 1), (1, 1001)]
    assert kinds(rows, "lmc", "aws", "signs") == [1]
    assert [row.round for row in rows if row.kind == "analysis"] == [1, 2]


def test_what_can_not_be_compared_is_named(searches, data, tmp_path):
    with pytest.raises(ValueError, match="unknown transfer sings; there are dense, solution"):
        comparison(searches, data, tmp_path, transfers=("sings",))
    with pytest.raises(ValueError, match=r"no such rounds: .*round-03.*; has the search come so far"):
        comparison(searches, data, tmp_path, rounds=(3,))
    with pytest.raises(ValueError, match=r"barrier_rounds \[2\] are not among the rounds \[1\]"):
        comparison(searches, data, tmp_path, rounds=(1,))
    with pytest.raises(ValueError, match="aws-round-02 of more than one search"):
        comparison([searches[0], searches[0]], data, tmp_path)
    other = search(tmp_path / "other", data, "lrr", "released-code")
    with pytest.raises(ValueError, match=r"aws-round-02 \(paper\) and lrr-round-02 \(released-code\) are measured"):
        comparison([searches[0], other], data, tmp_path)
