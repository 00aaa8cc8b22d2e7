"""A method, protocol, criterion, transfer, network and data set from outside the package: a row each, no more."""

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from torch import Tensor, nn

from aws_lottery import CRITERIA, Criterion, SignedMask
from aws_lottery.config import METHODS, PROTOCOLS
from aws_lottery.data.augment import Augmentation
from aws_lottery.data.made_up import made_up_images
from aws_lottery.data.presets import KNOWN, Known
from aws_lottery.experiments.figures import figures
from aws_lottery.experiments.looks import line_of, marker_of
from aws_lottery.experiments.results import read_results
from aws_lottery.models import ARCHITECTURES, Architecture
from aws_lottery.transfers import TRANSFERS, Transfer

RECIPES = Path(__file__).parent.parent / "recipes"


def thin(num_classes: int) -> nn.Module:
    layers = (nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, num_classes))
    return nn.Sequential(*layers)


def opposite_signs(mask: SignedMask, seed: int) -> SignedMask:
    values = {name: -value for name, value in mask.items()}
    return SignedMask(values, mask.config, prunable=mask.prunable, parameters=mask.parameters)


def saliency(name: str, weight: Tensor, gradient: Tensor) -> Tensor:
    return (weight * gradient).abs()


@pytest.fixture
def rows(monkeypatch, tmp_path):
    """The six rows, and the folder of the data set."""
    monkeypatch.setitem(METHODS, "late", replace(METHODS["aws"], rewind_to="warmup", line=None))
    monkeypatch.setitem(PROTOCOLS, "mine", replace(PROTOCOLS["paper"], prune_first=True))
    monkeypatch.setitem(CRITERIA, "saliency", Criterion(saliency, needs_gradient=True))
    monkeypatch.setitem(TRANSFERS, "opposite", Transfer("fresh + opposite signs", opposite_signs))
    monkeypatch.setitem(ARCHITECTURES, "thin", Architecture(thin, sized_by=None))
    monkeypatch.setitem(KNOWN, "squares", Known(Augmentation(size=8, padding=1), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split, part in made_up_images(8).items():
        part.to_parquet(tmp_path / "squares" / f"{split}.parquet")
    return tmp_path / "squares"


def run(monkeypatch, recipe: str, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [recipe, *map(str, arguments)])
    runpy.run_path(str(RECIPES / recipe), run_name="__main__")


def test_new_rows_are_found_trained_compared_drawn_and_shown_on_cards(rows, monkeypatch, tmp_path, caplog):
    common = ["--dataset", rows, "--batch_size", 8, "--workers", 0]
    search, compared = tmp_path / "search", tmp_path / "compared"
    stages = ["--rounds", 2, "--warmup_epochs", 1, "--epochs_per_round", 1]
    which = ["--model", "thin", "--method", "late", "--protocol", "mine", "--criterion", "saliency"]
    run(monkeypatch, "aws_cifar100.py", *which, *stages, *common, "--output_dir", search)

    assert "the paper has no hyper-parameters for thin: those of resnet50 are taken" in caplog.text

    final = ["--transfer", "opposite", "--epochs", 1, "--output_dir", tmp_path / "final"]
    run(monkeypatch, "train_from_mask.py", search / "round-02", *final, *common)
    assert (tmp_path / "final" / "result.json").is_file()

    plan = ["--rounds", 2, "--barrier_rounds", 2, "--seeds", 1, "--epochs", 1]
    transfers = ["--transfers", "dense", "solution", "signs", "opposite"]
    run(monkeypatch, "compare.py", search, *plan, *transfers, *common, "--output_dir", compared)

    table = (compared / "table.md").read_text()
    assert table.startswith("thin on squares\n")
    for start in ("dense", "LATE solution", "LATE: fresh + signed mask", "LATE: fresh + opposite signs"):
        assert f"| {start} |" in table
    assert "| LMC | LATE: fresh + opposite signs |" in table

    results = read_results(compared / "results.jsonl")
    assert {row.protocol for row in results} == {"mine"}
    assert sorted(path.stem for path in (compared / "plots").glob("*.png")) == ["accuracy", "analysis", "barriers"]
    (legend,) = figures(results)["barriers"].legends
    names = ["LATE solution", "LATE: fresh + signed mask", "LATE: fresh + opposite signs"]
    assert [text.get_text() for text in legend.get_texts()] == names
    assert line_of("late") not in [line_of(method) for method in METHODS if method != "late"]
    assert marker_of("opposite") not in [marker_of(transfer) for transfer in TRANSFERS if transfer != "opposite"]

    card = (compared / "masks" / "late-round-02" / "README.md").read_text()
    assert "| fresh + opposite signs |" in card
    assert "| LATE solution |" in card
    assert "| `criterion` | `saliency` |" in card
    assert "| `method.rewind_to` | `warmup` |" in card
    assert "| `protocol.prune_first` | `True` |" in card
