"""The pictures of docs/explanation/pictures.md are drawn by their scripts, and its figures are those of the results."""

import importlib
import sys
from pathlib import Path

import pytest

from aws_lottery import SignedMask
from aws_lottery.experiments.results import read_results

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "explanation/pictures.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, str(DOCS))
    yield [importlib.import_module("draw_method"), importlib.import_module("draw_measured")]
    sys.path.remove(str(DOCS))


def test_every_picture_is_drawn_and_shown(scripts):
    names = {name for script in scripts for name in script.PICTURES}
    assert {path.stem for path in (DOCS / "pictures").glob("*.png")} == names
    assert all(f"../pictures/{name}.png" in PAGE for name in names)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")
def test_the_scripts_draw_all_pictures(scripts):
    for script in scripts:
        assert all(draw().axes for draw in script.PICTURES.values())


@pytest.mark.parametrize(
    ("results", "transfer", "when"),
    [
        ("digits", "signs", "before"),
        ("digits", "mask", "before"),
        ("digits", "signs", "after"),
        ("digits", "mask", "after"),
        ("cifar10-resnet8", "signs", "after"),
        ("cifar10-resnet8", "mask", "after"),
    ],
)
def test_the_page_has_the_mean_of_the_results(scripts, results, transfer, when):
    before, after = scripts[1].accuracies(results, transfer)
    assert f"{(before if when == 'before' else after).mean():.1f} %" in PAGE


@pytest.mark.parametrize(
    ("results", "round_", "method"),
    [("tiny32-mobilenetv2", 6, "aws"), ("tiny32-mobilenetv2", 6, "lrr"), ("tiny32-resnet20", 9, "aws")],
)
def test_the_page_has_what_both_methods_reach(results, round_, method):
    rows = read_results(DOCS / "results" / results / "results.jsonl")
    of = [r for r in rows if r.kind == "accuracy" and (r.transfer, r.method, r.round) == ("signs", method, round_)]
    values = [row.after for row in of if row.data_seed == row.seed]
    assert f"{sum(values) / len(values):.1f} %" in PAGE


def test_the_page_has_the_barriers():
    rows = [r for r in read_results(DOCS / "results/cifar10-resnet8/results.jsonl") if r.kind == "lmc"]
    means = {}
    for transfer in ("signs", "mask"):
        barriers = [row.barrier.barrier for row in rows if row.transfer == transfer]
        means[transfer] = sum(barriers) / len(barriers)
    assert f"{means['signs']:.1f} and {means['mask']:.1f} points" in " ".join(PAGE.split())


def test_the_page_has_the_shares_of_the_mask():
    mask = SignedMask.from_pretrained(DOCS.parent / "model_cards/cifar10-resnet8-aws-0.11")
    first, *_, last = (row for row in mask.table() if row.prunable)
    text = " ".join(PAGE.split())
    assert f"keeps {first.remaining:.0%} of its {first.weights:,}".replace("%", " %") in text
    assert f"{last.remaining:.0%} of its {last.weights:,}; together {mask.remaining:.1%}".replace("%", " %") in text
