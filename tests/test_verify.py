"""`verify`: what it trains, keeps, goes on with and leaves for readers; and, slow, its verdicts on the digits."""

import json
import runpy
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from huggingface_hub import ModelCard
from torch import nn

from aws_lottery import Result, SignedMask, SignedMaskConfig, TrainingConfig, create_model, find_signed_mask, verify
from aws_lottery.cli.main import main
from aws_lottery.data import ImageData, load_data
from aws_lottery.data.made_up import made_up_images
from aws_lottery.experiments.jobs import LoneMask
from aws_lottery.experiments.results import read_results
from aws_lottery.experiments.verify import _lines, _source
from aws_lottery.runs.checkpoint import CheckpointError

ROOT = Path(__file__).parent.parent
TRAINING = TrainingConfig(epochs=1, batch_size=8)
CONTROLS = ("dense", "mask", "random-signs", "shuffled-mask")


def fresh(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 3 * 3, 4)
        )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> ImageData:
    return load_data(made_up_images(8), cache_dir=tmp_path_factory.mktemp("cache"), workers=0)


@pytest.fixture(scope="module")
def mask() -> SignedMask:
    """Half of the convolution's weights, as a mask that somebody made by hand; and what was measured elsewhere."""
    model = fresh(0)
    with torch.no_grad():
        model[0].weight[::2] = 0
    names, results = {"0.weight": "conv.weight"}, [Result("dense", "others", [1.0])]
    return SignedMask(SignedMask.from_model(model), prunable=("0.weight",), results=results, checkpoint_names=names)


def verified(mask, data, folder, **options):
    options = {"seeds": (1, 2), "accelerator": Accelerator(cpu=True), **options}
    return verify(mask, fresh, data, options.pop("training", TRAINING), output_dir=folder, **options)


@pytest.fixture(scope="module")
def verdict(mask, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("verified")
    return verified(mask, data, folder, benchmark=("org/shapes", "default")), folder


def test_each_seed_is_trained_dense_with_the_signs_twice_and_with_each_control(verdict):
    found, _ = verdict
    trained = sorted((row.transfer, row.seed, row.data_seed) for row in found.rows if row.kind == "accuracy")
    controls = [(transfer, seed, seed) for transfer in CONTROLS for seed in (1, 2)]
    assert trained == sorted([*controls, *[("signs", seed, u) for seed in (1, 2) for u in (seed, seed + 1000)]])
    lines = [(row.kind, row.seed) for row in found.rows if row.kind != "accuracy"]
    assert lines == [("stability", 1), ("stability", 2), ("between-inits", 1), ("between-inits", 2)]


def test_each_claim_has_a_value_a_seed_that_is_the_difference_of_its_trainings(verdict):
    found, _ = verdict
    assert list(found) == [*CONTROLS, "stability", "between-inits"]
    after = {(r.transfer, r.seed): r.after for r in found.rows if r.kind == "accuracy" and r.seed == r.data_seed}
    assert found["mask"].claim.values == tuple(after["signs", seed] - after["mask", seed] for seed in (1, 2))
    assert found["stability"].claim.values == tuple(r.barrier.barrier for r in found.rows if r.kind == "stability")
    with pytest.raises(KeyError, match="no claim 'masks'; there are dense, mask"):
        found["masks"]


def test_the_verdict_is_left_as_rows_json_table_figures_and_a_card(verdict):
    found, folder = verdict
    assert read_results(folder / "results.jsonl") == found.rows
    kept = json.loads((folder / "verdict.json").read_text())
    assert kept["margins"] == {"accuracy": 1.0, "barrier": 2.0, "level": 0.05}
    assert (kept["dataset"], kept["chance"], kept["remaining"]) == (data_name(found), 25.0, 0.5)
    assert [claim["verdict"] for claim in kept["claims"]] == [finding.verdict for finding in found.findings]
    assert kept["claims"][1]["values"] == list(found["mask"].claim.values)
    text = (folder / "verdict.md").read_text()
    assert "corrected for 6 claims by Holm's" in text
    assert "| fresh + shuffled mask | - | 0.500" in text
    assert sorted(path.name for path in (folder / "plots").iterdir()) == ["accuracy.png", "barriers.png", "claims.png"]


def data_name(found) -> str:
    return found.rows[0].dataset


def test_the_card_has_the_accuracy_in_its_index_beside_what_was_measured_elsewhere(verdict, mask):
    found, folder = verdict
    told = SignedMask.from_pretrained(folder / "mask")
    assert told == mask
    assert told.checkpoint_names == {"0.weight": "conv.weight"}
    assert len(mask.results) == 1  # as it was
    assert told.results[0].dataset == "others"
    signs = [row.after for row in found.rows if row.kind == "accuracy" and row.transfer == "signs" and row.seed < 1000]
    card = ModelCard.load(folder / "mask" / "README.md")
    assert card.data.eval_results[0].metric_value == pytest.approx(sum(signs[::2]) / 2)
    assert "## Is it a winning sign?" in card.text
    entry = (folder / "mask" / ".eval_results" / "shapes.yaml").read_text()
    assert "id: org/shapes" in entry
    assert "mean of 2 initializations" in entry


def test_done_again_it_trains_nothing_whatever_the_margins(verdict, mask, data, tmp_path, monkeypatch):
    found, folder = verdict
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("aws_lottery.experiments.trainings.final_training", None)
    monkeypatch.setattr("aws_lottery.experiments.measurements.error_barrier", None)
    again = verified(mask, data, tmp_path, plots=False, margin=50.0)
    assert again.rows == found.rows
    assert again["dense"].claim.bound == -50.0
    fewer = verified(mask, data, tmp_path, plots=False, seeds=(2,))
    assert [finding.verdict for finding in fewer.findings] == ["not enough seeds"] * 6


def test_with_more_seeds_the_last_one_is_connected_to_another_and_that_line_is_measured_anew(mask):
    def names(*seeds: int) -> list[str]:
        return [line.name for line in _lines(LoneMask(mask), seeds) if line.kind == "between-inits"]

    line = "between-inits-mask-signs-seed{0}-u{0}-to-seed{1}".format
    assert names(1, 2) == [line(1, 2), line(2, 1)]
    assert names(1, 2, 3) == [line(1, 2), line(2, 3), line(3, 1)]
    assert names(1) == []


def test_killed_in_a_training_it_goes_on_to_the_same_rows(verdict, mask, data, tmp_path, monkeypatch):
    found, folder = verdict
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for name in ("mask-mask-seed2-u2", "mask-signs-seed2-u1002"):
        shutil.rmtree(tmp_path / "trainings" / name)
    (tmp_path / "verdict.json").unlink()

    def dies(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("aws_lottery.runs.output_folder.Run.after_step", dies)
        with pytest.raises(KeyboardInterrupt):
            verified(mask, data, tmp_path, plots=False)
    assert not (tmp_path / "verdict.json").exists()
    assert verified(mask, data, tmp_path, plots=False).rows == found.rows


def test_with_the_weights_of_the_search_the_line_to_its_solution_is_measured(data, tmp_path):
    config = SignedMaskConfig(rounds=1, warmup_epochs=1, epochs_per_round=1)
    options = {"output_dir": tmp_path / "search", "accelerator": Accelerator(cpu=True), "test_data": data.test}
    find_signed_mask(fresh(0), data.train, config, TRAINING, **options)
    folder = tmp_path / "search" / "round-01"
    found = verified(folder, data, tmp_path / "verified", seeds=(1,), plots=False)
    assert "lmc" in found
    assert [row.transfer for row in found.rows if row.kind == "accuracy"].count("solution") == 1
    (folder / "weights.safetensors").unlink()
    assert _source(folder, None, None).weights is None
    with pytest.raises(FileNotFoundError, match=r"no weights\.safetensors"):
        verified(folder, data, tmp_path / "other", weights=folder)


def test_trainings_that_diverge_are_verdicts_too(mask, data, tmp_path):
    diverging = TrainingConfig(epochs=1, batch_size=8, learning_rate=1e30)
    found = verified(mask, data, tmp_path, training=diverging, plots=False)
    assert found["dense"].claim.values == found["stability"].claim.values == ()
    assert found["mask"].claim.values == (0.0, 0.0)
    assert "signs with seed 1 failed and counts as guessing" in str(found)


def test_what_can_not_be_verified_is_named_before_anything_is_trained(mask, data, tmp_path, monkeypatch):
    for wrong, message in (
        ({"mask": mask.binary()}, "the mask has no signs"),
        ({"seeds": (1, 1)}, r"seeds must be one or more, each once, got \[1, 1\]"),
        ({"margin": -1.0}, "the margin of accuracy must be 0 or more points, got -1.0"),
        ({"seeds": ()}, r"each once, got \[\]"),
        ({"mask": SignedMask({"1.weight": torch.ones(4, dtype=torch.int8)})}, "0.weight: not in the mask"),
    ):
        with pytest.raises(ValueError, match=message):
            verified(wrong.pop("mask", mask), data, tmp_path, **wrong)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"plots need matplotlib: pip install 'aws-lottery\[plots\]'"):
        verified(mask, data, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_mask_is_refused(verdict, mask, data):
    _, folder = verdict
    with pytest.raises(CheckpointError, match=r"signed_mask: .* there, .* now"):
        verified(mask.with_random_signs(1), data, folder)


def test_the_command_verifies_a_mask_of_a_named_network_at_the_rate_of_its_method(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    config = SignedMaskConfig(method="gm", architecture="resnet8")
    SignedMask.from_model(create_model("resnet8", 4, image_size=32), config).save_pretrained(tmp_path / "mask")
    options = ["--smoke", "--seeds", "1", "--no-plots", "--workers", "0", "--level", "0.1"]
    assert main(["verify", str(tmp_path / "mask"), *options, "--output_dir", str(tmp_path / "out")]) == 0
    assert "| **mask**: the signs do better than the mask alone" in capsys.readouterr().out
    kept = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert (kept["model"], kept["margins"]["level"]) == ("resnet8", 0.1)
    assert [claim["n"] for claim in kept["claims"]] == [1, 1, 1, 1, 1, 0]
    used = json.loads((tmp_path / "out" / "options.json").read_text())
    assert used["seeds"] == 1
    assert used["epochs"] == 1
    assert "learning_rate" not in used  # there is none that all of them have
    rows = [row for row in read_results(tmp_path / "out" / "results.jsonl") if row.kind == "accuracy"]
    assert {row.transfer: row.training["learning_rate"] for row in rows if row.transfer in ("dense", "signs")} == {
        "dense": 0.1,
        "signs": 0.01,
    }
    assert not (tmp_path / "out" / "plots").exists()


def test_what_starts_from_a_mask_of_a_method_with_a_training_of_its_own_is_trained_by_it(mask, data, tmp_path):
    of_gem_miner = SignedMask(mask, SignedMaskConfig(method="gm"), prunable=mask.prunable)
    own = {"gm": replace(TRAINING, learning_rate=0.01), "wr": replace(TRAINING, epochs=7)}
    found = verified(of_gem_miner, data, tmp_path, seeds=(1,), plots=False, own_training=own)
    trained = {row.transfer: row.training["learning_rate"] for row in found.rows if row.kind == "accuracy"}
    assert trained == {"dense": 0.1, "signs": 0.01, "mask": 0.01, "random-signs": 0.01, "shuffled-mask": 0.01}
    with pytest.raises(CheckpointError, match="holds a run with other settings"):
        verified(of_gem_miner, data, tmp_path, seeds=(1,), plots=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signs", "over_mask", "over_random"),
    [
        ("true", "holds", "holds"),
        ("random", "does not hold", "not enough seeds"),  # one draw of signs against others
        ("negated", "does not hold", "does not hold"),
    ],
)
def test_of_the_digits_mask_its_own_signs_help_and_wrong_ones_do_not(
    signs, over_mask, over_random, tmp_path, monkeypatch
):
    """After two epochs, by 15 points, from eight initializations."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    monkeypatch.setattr(sys, "argv", shlex.split(f"verify --mask {signs} --seeds 8 --epochs 2 --learning_rate 0.03"))
    sys.argv += ["--margin", "15", "--folder", str(ROOT / "docs/results/verify/mask"), "--output_dir", str(tmp_path)]
    runpy.run_path(str(ROOT / "recipes" / "verify_digits.py"), run_name="__main__")
    verdicts = {
        claim["name"]: claim["verdict"] for claim in json.loads((tmp_path / "verdict.json").read_text())["claims"]
    }
    assert (verdicts["mask"], verdicts["random-signs"]) == (over_mask, over_random)
