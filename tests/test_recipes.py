"""Every recipe in its smoke form, as its users start it."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from aws_lottery import SignedMask
from aws_lottery.experiments.losses import Loss, LossLine, loss_row
from aws_lottery.experiments.results import read_results
from aws_lottery.mask_file.sparse_weights import load_weights
from aws_lottery.models import fresh_network
from aws_lottery.paper import IMAGENET, SMALL_IMAGES
from aws_lottery.runs.checkpoint import CheckpointError
from aws_lottery.transfers import TRANSFERS

ROOT = Path(__file__).parent.parent


def run_twice(recipe: str, folder: Path) -> str:
    """What two processes print that torchrun starts, as a user would."""
    # by its address: where the name of the machine can't be looked up, the processes do not meet
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    launcher += ["--nproc_per_node", "2"]
    command = [*launcher, str(ROOT / "recipes" / recipe), "--smoke", "--output_dir", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def run_here(monkeypatch, recipe: str, *arguments: object) -> None:
    """In this process, which has all the libraries imported."""
    monkeypatch.setattr(sys, "argv", [recipe, "--smoke", *map(str, arguments)])
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    runpy.run_path(str(ROOT / "recipes" / recipe), run_name="__main__")


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.multiprocess)])
def test_the_digits_recipe_does_the_whole_job(processes, tmp_path, monkeypatch, capfd):
    if processes == 1:
        run_here(monkeypatch, "aws_digits.py", "--output_dir", tmp_path)
        printed = capfd.readouterr().out
    else:
        printed = run_twice("aws_digits.py", tmp_path)
    assert printed.count("| AWS: fresh + signed mask |") == 1  # one process speaks
    stages = [json.loads(line) for line in (tmp_path / "search/metrics.jsonl").read_text().splitlines()]
    assert [stage["stage"] for stage in stages] == [0, 1, 2, 3]

    compared = tmp_path / "compared"
    assert (compared / "plots/accuracy.png").read_bytes().startswith(b"\x89PNG")
    mask = SignedMask.from_pretrained(compared / "masks/aws-round-02")
    assert mask.remaining == pytest.approx(0.64, abs=1e-4)
    starts = ["dense", "AWS solution", "fresh + signed mask", "fresh + mask only", "fresh + random signs"]
    assert [result.condition for result in mask.results] == starts
    assert all(len(result.values) == len(result.before) == 2 for result in mask.results)


def test_a_search_recipe_starts_at_a_mask_or_at_a_file_of_sparse_weights(monkeypatch, tmp_path, capfd):
    options = ["--model", "resnet8", "--rounds", 1, "--output_dir"]
    run_here(monkeypatch, "aws_cifar100.py", *options, tmp_path / "first", "--solution_epochs", 1)
    left = tmp_path / "first" / "round-01"
    model = fresh_network("resnet8", 4, 0, image_size=32)
    model.load_state_dict(load_weights(left, SignedMask.from_pretrained(left)))
    save_file(model.state_dict(), tmp_path / "sparse.safetensors")
    arguments = ([left], [left, "--start", "solution"], [tmp_path / "sparse.safetensors"])
    masks = []
    for index, (mask, *start) in enumerate(arguments):
        folder = tmp_path / f"second-{index}"
        run_here(monkeypatch, "aws_cifar100.py", *options, folder, "--mask", mask, *start)
        masks.append(SignedMask.from_pretrained(folder / "round-01"))
        assert masks[-1].remaining == pytest.approx(0.64, abs=1e-3)
        assert masks[-1].provenance.history[0]["source"] == str(mask)
    printed = capfd.readouterr().out
    assert "1 round to 0.6400 remaining" in printed
    assert f"aws-lottery train {tmp_path / 'second-0' / 'round-01'} --smoke\n" in printed
    assert [same_signs(masks[1], mask) for mask in masks] == [False, True, True]


def same_signs(mask, other) -> bool:
    return all(torch.equal(mask[name], other[name]) for name in mask)


@pytest.mark.parametrize(
    ("recipe", "model", "method", "protocol", "which", "transfer"),
    [
        ("aws_cifar100.py", "resnet20", "aws", "paper", "small", "signs"),
        ("aws_cifar100.py", "resnet8", "gm", "paper", "small", "solution"),
        ("aws_tiny_imagenet.py", "resnet8", "imp", "paper", "small", "mask"),
        ("aws_tiny_imagenet.py", "resnet8", "wr", "released-code", "small", "signs-norm-shifted"),
        ("aws_imagenet.py", "mlp_mixer", "lrr", "released-code", "imagenet-released-code", "signs-norm"),
    ],
)
def test_a_search_recipe_and_the_final_training_from_its_mask(
    monkeypatch, tmp_path, recipe, model, method, protocol, which, transfer
):
    monkeypatch.setattr("aws_lottery.data.load._folder", lambda cache_dir: tmp_path / "cache")
    options = ["--model", model, "--method", method, "--protocol", protocol]
    run_here(monkeypatch, recipe, *options, "--output_dir", tmp_path / "search")
    masks = [SignedMask.from_pretrained(tmp_path / "search" / f"round-0{index}") for index in (1, 2)]
    left = [0.5, 0.5] if method == "gm" else [0.8, 0.64]  # scores under a half round to 0, though not frozen yet
    assert [round(mask.remaining, 1 if method == "gm" else 2) for mask in masks] == left

    arguments = [tmp_path / "search/round-02", "--recipe", which, "--transfer", transfer, "--output_dir"]
    run_here(monkeypatch, "train_from_mask.py", *arguments, tmp_path / "final")
    result = json.loads((tmp_path / "final/result.json").read_text())
    assert result["remaining"] == masks[-1].remaining
    assert result["transfer"] == transfer
    assert 0 <= result["after"] <= 100

    written = (tmp_path / "final/result.json").stat().st_mtime_ns
    run_here(monkeypatch, "train_from_mask.py", *arguments, tmp_path / "final")
    assert (tmp_path / "final/result.json").stat().st_mtime_ns == written  # what is done is not done again


def test_an_experiment_and_another_comparison_of_its_search(monkeypatch, tmp_path):
    monkeypatch.setattr("aws_lottery.data.load._folder", lambda cache_dir: tmp_path / "cache")
    run_here(monkeypatch, "evidence.py", "cifar10-resnet8", "--output_dir", tmp_path)
    table = (tmp_path / "comparison/table.md").read_text()
    assert table.count("| AWS: fresh + signed mask |") == 3  # accuracy, stability, connectivity

    arguments = [tmp_path / "search-aws", "--rounds", 1, "--seeds", 1, "--transfers", "signs", "random-signs"]
    run_here(monkeypatch, "compare.py", *arguments, "--output_dir", tmp_path / "again")
    rows = [json.loads(line) for line in (tmp_path / "again/results.jsonl").read_text().splitlines()]
    assert [row.get("transfer") for row in rows] == ["signs", "random-signs", None, None]


def test_compare_trains_starts_from_gem_miner_at_its_own_rate(monkeypatch, tmp_path):
    monkeypatch.setattr("aws_lottery.data.load._folder", lambda cache_dir: tmp_path / "cache")
    run_here(
        monkeypatch, "aws_cifar100.py", "--model", "resnet8", "--method", "gm", "--output_dir", tmp_path / "search"
    )
    options = ["--rounds", 2, "--seeds", 1, "--transfers", "dense", "signs", "--no_plots", "--output_dir"]
    for folder, rate in (("its-own", []), ("given", ["--learning_rate", 0.05])):
        run_here(monkeypatch, "compare.py", tmp_path / "search", *rate, *options, tmp_path / folder)
    rates, used = {}, {}
    for folder in ("its-own", "given"):
        rows = read_results(tmp_path / folder / "results.jsonl")
        rates[folder] = {row.transfer: row.training["learning_rate"] for row in rows if row.kind == "accuracy"}
        used[folder] = json.loads((tmp_path / folder / "options.json").read_text()).get("learning_rate")
    assert rates == {"its-own": {"dense": 0.1, "signs": 0.01}, "given": {"dense": 0.05, "signs": 0.05}}
    assert used == {"its-own": None, "given": 0.05}  # the file sets no rate that differs among the starts


def test_masks_beyond_their_own_search(monkeypatch, tmp_path):
    monkeypatch.setattr("aws_lottery.data.load._folder", lambda cache_dir: tmp_path / "cache")
    run_here(monkeypatch, "reuse.py", "--output_dir", tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "trainings.jsonl").read_text().splitlines()]
    assert len(rows) == 24
    assert {round(row["remaining"], 3) for row in rows if row["question"].startswith("across")} == {1.0, 0.107}
    table = (tmp_path / "table.md").read_text()
    assert "| last round and round 9 | 80.0 |" in table  # a round leaves 0.8 of the places of the one before
    assert (tmp_path / "reuse.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("ignore")  # transformers' own
def test_the_vision_transformer_by_the_trainer(monkeypatch, tmp_path, capfd):
    run_here(monkeypatch, "aws_trainer_vit.py", "--output_dir", tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "trainings.jsonl").read_text().splitlines()]
    assert [row["remaining"] for row in rows] == [1.0] + 4 * [pytest.approx(0.8, abs=1e-4)]
    printed = capfd.readouterr().out
    run_here(monkeypatch, "aws_trainer_vit.py", "--output_dir", tmp_path)  # what is done is not done again
    again = capfd.readouterr().out
    assert "| fresh + signed mask |" in again
    assert printed.endswith(again)


@pytest.mark.filterwarnings("ignore")  # transformers' own
@pytest.mark.parametrize(
    ("options", "starts"),
    [
        (["--network", "llama", "--tokens", 0], "dense signs mask matrix-signs embedding-signs solution random-signs"),
        (["--network", "gpt2", "--tokens", 300], "dense signs mask solution"),
    ],
)
def test_language_models_by_the_trainer(monkeypatch, tmp_path, capfd, options, starts):
    for name in ("matrix-signs", "embedding-signs"):  # which the recipe adds, and the test takes away again
        monkeypatch.setitem(TRANSFERS, name, TRANSFERS["signs"])
    options = [*options, "--methods", "aws", "--at", 2, "--starts", *starts.split(), "--output_dir", tmp_path]
    run_here(monkeypatch, "aws_language_model.py", *options)
    rows = [loss_row(json.loads(line)) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    losses = {row.transfer: row for row in rows if isinstance(row, Loss) and row.data_seed == 1}
    assert losses.keys() == set(starts.split())
    assert all(1 < row.after < row.before < 7 for row in losses.values())
    assert {round(row.remaining, 2) for row in losses.values()} == {1.0, 0.49}
    assert losses["solution"].signs_kept > losses["signs"].signs_kept > 0.7 > losses["mask"].signs_kept
    lines = [(row.kind, row.transfer) for row in rows if isinstance(row, LossLine)]
    assert {("lmc", "signs"), ("lmc", "mask"), ("stability", "signs"), ("stability", "mask")} <= set(lines)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")

    (tmp_path / "table.md").unlink()
    capfd.readouterr()
    run_here(monkeypatch, "aws_language_model.py", *options)  # what is done is not done again
    assert "| AWS: fresh + signed mask | 2 | 0.490" in (printed := capfd.readouterr().out)
    assert "eval_loss" not in printed
    with pytest.raises(CheckpointError, match="learning_rate"):
        run_here(monkeypatch, "aws_language_model.py", *options, "--learning_rate", 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--at", 3], r"--at is \[3\]; it must be 1 to --rounds 2"),
        (["--width", 48], "--width is 48; it must be a multiple of 32"),
        (["--tokens", 256], "--tokens is 256; it must be 0, for bytes, or 257 and more"),
    ],
)
def test_a_language_model_that_can_not_be_is_refused_at_once(monkeypatch, capsys, options, message):
    for name in ("matrix-signs", "embedding-signs"):
        monkeypatch.setitem(TRANSFERS, name, TRANSFERS["signs"])
    with pytest.raises(SystemExit):
        run_here(monkeypatch, "aws_language_model.py", *options)
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [("aws_cifar100.py", SMALL_IMAGES), ("aws_tiny_imagenet.py", SMALL_IMAGES), ("aws_imagenet.py", IMAGENET)],
)
def test_the_hyper_parameters_that_a_recipe_shows_are_the_papers(recipe, settings):
    shown = runpy.run_path(str(ROOT / "recipes" / recipe))["SETTINGS"]
    assert list(shown.items()) == list(settings.items())


def test_every_recipe_is_run_by_a_test():
    recipes = {path.name for path in (ROOT / "recipes").glob("*.py")}
    assert recipes == {
        "aws_cifar100.py",
        "aws_digits.py",
        "aws_imagenet.py",
        "aws_language_model.py",
        "aws_tiny_imagenet.py",
        "aws_trainer_vit.py",
        "compare.py",
        "evidence.py",
        "language_model.py",  # a part of aws_language_model.py
        "reuse.py",
        "train_from_mask.py",
        "verify_digits.py",
    }


def test_the_verify_recipe_leaves_a_verdict(tmp_path, monkeypatch, capfd):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    folder = ROOT / "model_cards" / "digits"
    run_here(monkeypatch, "verify_digits.py", "--folder", folder, "--output_dir", tmp_path)
    assert "| **dense**: " in capfd.readouterr().out
    assert len(json.loads((tmp_path / "verdict.json").read_text())["claims"]) == 6
