"""find_signed_mask: killed at any moment and started again, it ends with the same signs."""

import json
import math
import multiprocessing
import os
import re
import signal
from collections import namedtuple
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from aws_lottery import SignedMask, SignedMaskConfig, TrainingConfig, find_signed_mask
from aws_lottery.data import Images
from aws_lottery.mask_file.sparse_weights import load_weights
from aws_lottery.metrics import Accuracy
from aws_lottery.runs import checkpoint
from aws_lottery.runs.checkpoint import CheckpointError
from aws_lottery.runs.metrics_log import write_metrics
from aws_lottery.runs.output_folder import Run
from aws_lottery.runs.signals import Interrupted

CONFIG = SignedMaskConfig(rounds=3, warmup_epochs=2, epochs_per_round=2)
TRAINING = TrainingConfig(batch_size=8, max_grad_norm=1.0)
STEPS = 8 * 4  # 4 batches an epoch
Usage = namedtuple("Usage", "free")


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(12, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Dropout(0.1),  # takes from the global random state
        nn.Linear(16, 3),
    )


def images() -> Images:
    x = torch.randn(32, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    return Images(x, x.mean(dim=(2, 3)).argmax(1))


def search(folder, *, config=CONFIG, training=TRAINING, **options) -> SignedMask:
    torch.set_num_threads(1)
    model = network()
    torch.manual_seed(5)
    return find_signed_mask(
        model,
        images(),
        config,
        training,
        output_dir=folder,
        accelerator=Accelerator(cpu=True),
        **{"checkpoint_seconds": 0.0, "test_data": images(), **options},
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never interrupted: its mask and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return search(folder), folder


TIMES = ("seconds", "images_per_second")


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def untimed(folder: Path) -> list[dict]:
    return [{name: value for name, value in line.items() if name not in TIMES} for line in metrics(folder)]


def test_a_search_keeps_the_mask_of_every_round(whole):
    mask, folder = whole
    kept = [SignedMask.from_pretrained(folder / f"round-0{index}") for index in (1, 2, 3)]
    assert dict_of(kept[-1]) == dict_of(mask)
    assert [round(m.remaining * 192) for m in kept] == [154, 124, 100]
    assert [line["stage"] for line in metrics(folder)] == [0, 1, 2, 3]
    assert all(0 <= line["accuracy"] <= 100 for line in metrics(folder))


def test_each_stage_tells_what_its_training_cost(whole):
    for line in metrics(whole[1]):
        assert line["seconds"] > 0
        assert line["seconds"] == pytest.approx(2 * 32 / line["images_per_second"], abs=0.006)  # both are rounded


def test_the_time_is_estimated_once_after_the_first_steps(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("aws_lottery.runs.progress.ESTIMATE_AFTER", (3, 0.0))
    search(tmp_path)
    printed = capfd.readouterr().out
    assert len(re.findall(r"about \d+ s for all 32 steps, \d+ s of them left", printed)) == 1
    assert re.findall(r"(\S+ ?\S+) {2,}(\S+) remaining  loss \S+  accuracy \S+  \d+ s", printed) == [
        ("warm-up", "1.0000"),
        ("round 1/3", "1.0000"),
        ("round 2/3", "0.8021"),
        ("round 3/3", "0.6458"),
    ]  # no bar, as stderr is no terminal


def dict_of(mask) -> dict:
    return {name: mask[name].tolist() for name in mask}


def killed_at(step: int, folder: Path, how: int = signal.SIGKILL, **options) -> int | None:
    """Exit code of a search, in a process of its own, that sends itself a signal after some steps."""
    after_step, steps = Run.after_step, count(1)

    def counting(self, training):
        if next(steps) == step:
            os.kill(os.getpid(), how)
        after_step(self, training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "after_step", counting)
        process = multiprocessing.get_context("fork").Process(target=search, args=(folder,), kwargs=options)
        process.start()
        process.join()
    return process.exitcode


@pytest.mark.parametrize("step", [3, 5, 12, 31])  # 5: the last checkpoint is of the end of an epoch
def test_a_killed_run_goes_on_to_the_same_mask_bit_for_bit(whole, tmp_path, step):
    assert killed_at(step, tmp_path) == -signal.SIGKILL
    assert dict_of(search(tmp_path)) == dict_of(whole[0])
    assert untimed(tmp_path) == untimed(whole[1])


def test_a_run_killed_before_its_first_step_is_in_a_checkpoint_leaves_its_folder_to_other_settings(tmp_path, caplog):
    assert killed_at(3, tmp_path / "a", checkpoint_seconds=300.0) == -signal.SIGKILL
    assert {path.name for path in (tmp_path / "a").iterdir()} == {".lock", "run.json", "checkpoint.pt"}
    other = TrainingConfig(batch_size=16)
    with caplog.at_level("INFO", logger="aws_lottery"):
        mask = search(tmp_path / "a", training=other)
    assert f"{tmp_path / 'a'} held a run with other settings that had not done anything yet" in caplog.text
    assert dict_of(mask) == dict_of(search(tmp_path / "b", training=other))


def test_the_folder_of_a_comparison_without_results_is_not_taken_as_it_may_be_under_way(tmp_path):
    checkpoint.claim(tmp_path, {"training": {}}, resume=True)
    with pytest.raises(CheckpointError, match="seed: None there, 0 now"):
        search(tmp_path)


@pytest.mark.parametrize("left", ["metrics.jsonl", "round-01", "notes.txt"])
def test_a_run_that_may_have_done_something_keeps_its_folder(tmp_path, left):
    assert killed_at(3, tmp_path, checkpoint_seconds=300.0) == -signal.SIGKILL
    (tmp_path / left).touch()
    with pytest.raises(CheckpointError, match=r"training\.batch_size: 8 there, 16 now"):
        search(tmp_path, training=TrainingConfig(batch_size=16))
    assert (tmp_path / left).exists()
    (tmp_path / left).unlink()
    assert killed_at(5, tmp_path) == -signal.SIGKILL  # a step is in the checkpoint
    with pytest.raises(CheckpointError, match=r"training\.batch_size: 8 there, 16 now"):
        search(tmp_path, training=TrainingConfig(batch_size=16))


def test_a_killed_run_goes_on_to_the_same_average(tmp_path):
    training = TrainingConfig(batch_size=8, ema_decay=0.8)
    expected = search(tmp_path / "whole", training=training)
    assert killed_at(14, tmp_path / "cut", training=training) == -signal.SIGKILL
    assert dict_of(search(tmp_path / "cut", training=training)) == dict_of(expected)


def test_sigterm_saves_and_leaves_with_a_message(whole, tmp_path, capfd):
    assert killed_at(14, tmp_path, signal.SIGTERM) == 128 + signal.SIGTERM
    assert "stopped by signal 15 after a checkpoint" in capfd.readouterr().out
    assert dict_of(search(tmp_path)) == dict_of(whole[0])


@pytest.mark.parametrize("method", ["imp", "wr"])
def test_rewinding_methods_go_on_too(tmp_path, monkeypatch, method):
    config = SignedMaskConfig(method=method, rounds=2, warmup_epochs=1, epochs_per_round=1)
    expected = search(tmp_path / "whole", config=config)

    class Stop(Exception):
        pass

    def stop(folder, state, accelerator, saved=[]):  # noqa: B006  counts the calls
        real(folder, state, accelerator)
        saved.append(state)
        if len(saved) == 8:
            raise Stop

    real = checkpoint.save
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", stop)
        with pytest.raises(Stop):
            search(tmp_path / "cut", config=config)
    assert dict_of(search(tmp_path / "cut", config=config)) == dict_of(expected)


@pytest.mark.parametrize(("protocol", "times"), [("paper", 3), ("released-code", 0)])
def test_batchnorm_is_re_estimated_where_the_protocol_says_so(tmp_path, monkeypatch, protocol, times):
    calls = []
    monkeypatch.setattr("aws_lottery.evaluation.recalibrate", lambda *arguments, **options: calls.append(arguments))
    search(tmp_path, config=SignedMaskConfig(protocol=protocol, rounds=2, warmup_epochs=1, epochs_per_round=1))
    assert len(calls) == times


def test_released_code_trains_on_partial_batches_and_goes_on_from_one(tmp_path):
    config = SignedMaskConfig(protocol="released-code", rounds=2, warmup_epochs=1, epochs_per_round=1)
    options = {"config": config, "training": TrainingConfig(batch_size=12)}  # 12, 12, 8 an epoch
    expected = search(tmp_path / "whole", **options)
    for line in metrics(tmp_path / "whole"):
        assert line["seconds"] == pytest.approx(32 / line["images_per_second"], abs=0.006)  # both are rounded
    assert killed_at(6, tmp_path / "cut", **options) == -signal.SIGKILL  # in the second partial batch
    assert dict_of(search(tmp_path / "cut", **options)) == dict_of(expected)


def test_a_finished_search_is_only_read_again(whole):
    mask, folder = whole
    before = (folder / "metrics.jsonl").read_bytes()
    assert dict_of(search(folder)) == dict_of(mask)
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_other_settings_are_refused_with_the_differences(whole):
    with pytest.raises(CheckpointError, match=r"training.learning_rate: 0\.1 there, 0\.2 now"):
        search(whole[1], training=TrainingConfig(batch_size=8, max_grad_norm=1.0, learning_rate=0.2))
    with pytest.raises(CheckpointError, match="holds a run already"):
        search(whole[1], resume=False)


def test_a_full_disk_leaves_the_last_checkpoint(whole, tmp_path, monkeypatch):
    killed_at(9, tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(path, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "replace_file", full)
        with pytest.raises(CheckpointError, match="The last checkpoint is intact; make room"):
            search(tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert dict_of(search(tmp_path)) == dict_of(whole[0])


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_goes_on_to_the_same_mask(whole, tmp_path):
    killed_at(9, tmp_path)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"can't be read .*checkpoint-previous.pt is good: delete checkpoint.pt"):
        search(tmp_path)
    path.unlink()
    assert dict_of(search(tmp_path)) == dict_of(whole[0])
    assert untimed(tmp_path) == untimed(whole[1])


@dataclass
class Evil:
    file: Path

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path):
    killed_at(9, tmp_path)
    checkpoint._write(tmp_path, {"random": [Evil(tmp_path / "made by code")]})
    with pytest.raises(CheckpointError, match="can't be read"):
        search(tmp_path)
    assert not (tmp_path / "made by code").exists()


def test_a_finished_search_leaves_one_checkpoint_and_puts_its_weights_into_the_model(whole):
    mask, folder = whole
    assert [path.name for path in folder.glob("checkpoint*")] == ["checkpoint.pt"]
    model = network()
    found = find_signed_mask(
        model, images(), CONFIG, TRAINING, output_dir=folder, accelerator=Accelerator(cpu=True), test_data=images()
    )
    weights = load_weights(folder / "round-03", found)
    assert dict_of(found) == dict_of(mask)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert "forward" not in vars(model[2])  # nothing is left attached


def test_metrics_deleted_before_a_resume_are_written_again(whole, tmp_path):
    killed_at(20, tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    search(tmp_path)
    assert untimed(tmp_path) == untimed(whole[1])


def test_metrics_of_after_the_checkpoint_are_not_there_twice(whole, tmp_path):
    killed_at(20, tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": 2, "torn')
    search(tmp_path)
    assert untimed(tmp_path) == untimed(whole[1])


def test_a_number_that_is_not_finite_is_null_in_metrics(tmp_path):
    write_metrics(tmp_path, [{"loss": math.nan, "stage": 0}, {"loss": math.inf}])
    assert (tmp_path / "metrics.jsonl").read_text() == '{"loss": null, "stage": 0}\n{"loss": null}\n'


def test_temporary_files_of_killed_runs_are_removed_by_the_next(tmp_path):
    killed_at(9, tmp_path)
    for folder in (tmp_path, tmp_path / "round-01"):
        folder.mkdir(exist_ok=True)
        (folder / ".0123456789abcdef.tmp").write_bytes(b"half")
    search(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_disk_without_room_for_the_next_checkpoint_is_told_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr("aws_lottery.runs.output_folder.shutil.disk_usage", lambda folder: Usage(1000))
    with pytest.raises(CheckpointError, match=r"has room for 1,000 bytes, the next checkpoint needs at least 2,6"):
        search(tmp_path)


def test_a_signal_after_the_last_step_ends_the_program_when_the_search_is_done(whole, tmp_path, monkeypatch):
    log = Run.log

    def asked(self, metrics):
        log(self, metrics)
        if metrics["stage"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Run, "log", asked)
    with pytest.raises(Interrupted) as error:
        search(tmp_path)
    assert error.value.code == 128 + signal.SIGTERM
    assert dict_of(SignedMask.from_pretrained(tmp_path / "round-03")) == dict_of(whole[0])


def other_labels() -> Images:
    pixels, labels = images().tensors
    return Images(pixels, (labels + 1) % 3)


def other_pixels() -> Images:
    pixels, labels = images().tensors
    return Images(pixels.clone().index_fill_(0, torch.tensor(5), 0.0), labels)


@pytest.mark.parametrize("other", [other_labels, other_pixels])
def test_other_data_of_the_same_length_is_refused(whole, monkeypatch, other):
    data = other()
    monkeypatch.setitem(globals(), "images", lambda: data)
    with pytest.raises(CheckpointError, match=r"other settings:\n  data: '[0-9a-f]{16}' there, '[0-9a-f]{16}' now"):
        search(whole[1])


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        ((4, 3, 2, 2), [0, 1, 2, 3], "data: labels go from 0 to 3, the model has 3 outputs"),
        ((4, 3, 2, 2), [0, 1, 2, -1], "data: labels go from -1 to 2, the model has 3 outputs"),
        ((4, 3, 2, 2), [0.0, 1.0, 2.0, 0.5], r"data: labels are torch.float32 of shape \(4,\), expected int64"),
        ((4, 3, 4, 4), [0, 1, 2, 0], r"data: the model can't take an image of shape \(3, 4, 4\): mat1 and mat2"),
        ((0, 3, 2, 2), [], "data has no images"),
    ],
)
def test_data_that_does_not_fit_the_model_is_refused_before_anything_is_written(tmp_path, pixels, labels, message):
    data = Images(torch.zeros(pixels), torch.tensor(labels))
    with pytest.raises(ValueError, match=message):
        find_signed_mask(network(), data, CONFIG, TRAINING, output_dir=tmp_path, accelerator=Accelerator(cpu=True))
    assert list(tmp_path.iterdir()) == []


def test_a_model_on_meta_is_refused_before_anything_is_written(tmp_path):
    with torch.device("meta"):
        model = network()
    with pytest.raises(ValueError, match=r"1.weight: on the meta device; initialize the model first"):
        find_signed_mask(model, images(), CONFIG, TRAINING, output_dir=tmp_path, accelerator=Accelerator(cpu=True))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_can_not_be_written_is_told_with_its_path(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/run"):
        search(tmp_path / "file" / "run")


def test_accuracy_needs_no_folder_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "file" / "metrics"))
    assert Accuracy().compute(predictions=[1, 2], references=[1, 1]) == {"accuracy": 50.0}


def test_a_loss_that_diverges_stops_before_anything_is_pruned_or_saved_over(tmp_path):
    with pytest.raises(FloatingPointError):
        search(tmp_path, training=TrainingConfig(batch_size=8, learning_rate=1e30))
    assert not list(tmp_path.glob("round-*"))
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert all(value.isfinite().all() for value in state["model"].values())
