"""The card of a mask: whole, true to what was measured, and proof against what strangers put into a mask."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from torch import nn

from aws_lottery import Provenance, Result, SignedMask, SignedMaskConfig
from aws_lottery.mask_file.model_card import BEGIN, END
from aws_lottery.paper import DENSE, TABLE_2, reported

SHIPPED = sorted((Path(__file__).parent.parent / "model_cards").glob("*/"))


def tiny_mask(**config):
    values = {"a.weight": torch.tensor([[1, 0], [-1, 0]], dtype=torch.int8)}
    return SignedMask(values, SignedMaskConfig(**config), parameters=6)


@pytest.fixture
def mask():
    mask = tiny_mask(architecture="tiny net")
    mask.results = (
        Result("dense", "owner/data", [90, 92]),
        Result("fresh + signed mask", "owner/data", [88, 90], before=[50, 51]),
        Result("odd start", "owner/data", [10]),
    )
    return mask


def text_of(mask, **options):
    return str(mask.generate_model_card(**options))


def snippet_of(card):
    return re.search(r"```python\n(.*?)\n```", card, re.DOTALL)[1]


# What the project ships


def test_a_card_is_shipped():
    assert "digits" in [folder.name for folder in SHIPPED]


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_a_shipped_card_is_what_its_mask_renders(folder):
    mask = SignedMask.from_pretrained(folder)
    card = (folder / "README.md").read_text()
    assert text_of(mask) == card
    assert text_of(mask, existing=card) == card


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_the_example_of_a_shipped_card_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = {}
    exec(snippet_of(Path("README.md").read_text()), names)
    assert isinstance(names["model"], nn.Module)
    name = names["mask"].prunable[0]
    assert torch.equal(names["model"].get_parameter(name) == 0, names["mask"][name] == 0)
    names["hold"].remove()


# What it tells


def test_a_search_by_aws_that_had_nothing_to_interpolate_says_that_it_is_lrr(mask):
    without = SignedMask(dict(mask), SignedMaskConfig(method="aws"), parameters=4)  # all four have signs
    assert "so nothing was interpolated: this search by `aws` is one by `lrr`" in text_of(without)
    assert "nothing was interpolated" not in text_of(
        SignedMask(dict(mask), SignedMaskConfig(method="lrr"), parameters=4)
    )
    assert "nothing was interpolated" not in text_of(mask)  # two more parameters, of normalization


def test_results_stand_beside_the_controls_and_what_was_not_measured(mask):
    card = text_of(mask)
    assert "| dense | not measured | 91.00 ± 1.41 | 2 |" in card
    assert "| AWS solution | not measured | not measured | 0 |" in card
    assert "| fresh + signed mask | 50.50 ± 0.71 | 89.00 ± 1.41 | 2 |" in card
    assert "| fresh + mask only | not measured | not measured | 0 |" in card
    assert "| odd start | not measured | 10.00 | 1 |" in card
    assert "The paper reports no figure for this search." in card


def test_the_figures_of_the_paper_stand_beside_ours():
    mask = tiny_mask(architecture="ResNet-50 (transformers)", rounds=9)
    mask.provenance = Provenance(dataset="ILSVRC/imagenet-1k")
    card = text_of(mask)
    assert "| dense | not measured | not measured | 0 | 75.26 ± 0.27 |" in card
    assert "| AWS solution | not measured | not measured | 0 | 73.63 ± 0.21 |" in card
    assert "| fresh + signed mask | not measured | not measured | 0 | 73.65 ± 0.12 |" in card
    assert "| fresh + mask only | not measured | not measured | 0 | - |" in card
    assert "Table 2, ImageNet top-1" in card


def test_the_paper_has_figures_for_its_own_searches_only():
    search = {"method": "lrr", "rounds": 7}
    assert reported("mlp-mixer", "ImageNet", **search) == {
        "dense": DENSE["MLP-Mixer"],
        "solution": (59.18, 0.26),
        "signs": (57.54, 0.30),
    }
    assert len(TABLE_2) == 12
    assert reported("ResNet-50", "cifar100", **search) == {}
    assert reported("ResNet-18", "imagenet", **search) == {}
    assert reported("ResNet-50", "imagenet", method="imp", rounds=7) == {}
    assert reported("ResNet-50", "imagenet", **search, prune_rate=0.3) == {}


def test_the_front_matter_holds_the_result_of_the_mask_only(mask):
    mask.provenance = Provenance(task="image-classification", license="mit", base_model="owner/net")
    data = ModelCard(text_of(mask)).data
    assert data.library_name == "aws_lottery"
    assert data.pipeline_tag == "image-classification"
    assert (data.license, data.base_model, data.datasets) == ("mit", "owner/net", ["owner/data"])
    assert {"signed-mask", "aws"} <= set(data.tags)
    (result,) = data.eval_results
    assert (result.dataset_type, result.metric_type, result.metric_value) == ("owner/data", "accuracy", 89.0)


def test_a_mask_that_tells_nothing_says_so():
    card = text_of(SignedMask({"a": torch.ones(2, dtype=torch.int8)}))
    assert "# Signed mask for a network that it does not name" in card
    assert "The search that found it is not recorded." in card
    assert "| hardware | not recorded |" in card
    assert "model-index" not in card


def test_both_ratios_the_recipe_and_the_layers_are_told(mask):
    card = text_of(mask)
    assert "**0.5** of the prunable weights remain" in card
    assert "**0.6667** of all 6 parameters" in card
    assert "| `prune_rate` | `0.2` |" in card
    assert "| `protocol.prune_first` | `False` |" in card
    assert "| `a.weight` | 2x2 | 0.5000 | 0.50 |" in card


def test_a_mask_without_signs_says_so(mask):
    card = text_of(mask.binary())
    assert "This one is a mask without signs" in card
    assert "theta = theta_init * m;" in snippet_of(card)


def test_the_card_survives_saving_and_loading(mask, tmp_path):
    mask.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    SignedMask.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == card


# What people add


def test_what_was_added_by_hand_is_kept(mask):
    card = text_of(mask)
    edited = card.replace("tags:", "thumbnail: x.png\ntags:\n- mine", 1).replace(BEGIN, f"Above.\n\n{BEGIN}")
    edited += "\nBelow.\n"
    mask.results = ()
    again = text_of(mask, existing=edited)
    assert again.endswith(f"{END}\n\nBelow.\n")
    assert f"Above.\n\n{BEGIN}" in again
    data = ModelCard(again).data.to_dict()
    assert data["thumbnail"] == "x.png"
    assert data["tags"] == ["signed-mask", "sparsity", "pruning", "lottery-ticket", "aws", "mine"]
    assert "model-index" not in data
    assert "91.00" not in again
    assert text_of(mask, existing=again) == again


@pytest.mark.parametrize("written", ["A page of mine.\n", "---\nlicense: mit\n---\nA page of mine.\n"])
def test_a_card_that_is_not_ours_follows_after_it(mask, written):
    again = text_of(mask, existing=written)
    assert again.endswith(f"{END}\n\nA page of mine.\n")
    assert ("license: mit" in again) == ("license: mit" in written)


@pytest.mark.parametrize(
    "written", ["---\na: [\n---\n", "---\n- a\n---\n", "---\n1: a\n---\n", "---\neval_results: 1\n---\n"]
)
def test_front_matter_that_can_not_be_read_is_refused(mask, written):
    with pytest.raises(ValueError, match=r"front matter of the README.md there can't be read, mend or remove it"):
        text_of(mask, existing=written)


# What strangers put into a mask

EVIL = f"x|y `z` ```\n---\nlicense: evil\n# Big <script> [a](b) ![c](d) {END} \x1b \u202e"


def test_text_from_a_mask_stays_in_its_place():
    values = {EVIL: torch.ones(2, dtype=torch.int8)}
    mask = SignedMask(values, SignedMaskConfig(architecture=EVIL, classifier=EVIL))
    mask.results = (Result(EVIL, EVIL, [1.0], metric=EVIL), Result("fresh + signed mask", EVIL, [1.0], metric=EVIL))
    fields = ("library_version", "commit", "hardware", "command", "dataset", "task", "license", "base_model")
    mask.provenance = Provenance(**dict.fromkeys(fields, EVIL), training={EVIL: EVIL}, limits=[EVIL], model_code=EVIL)
    card = text_of(mask)
    _, front, body = card.split("---\n", 2)
    data = yaml.safe_load(front)
    assert data["license"] == EVIL
    assert "datasets" not in data
    assert set(data) <= {"library_name", "license", "pipeline_tag", "base_model", "tags", "model-index"}
    code = re.search(r"^(`{4,})python\n.*?^\1$", body, re.DOTALL | re.MULTILINE)
    outside = body.replace(code[0], "")
    lines = outside.splitlines()
    assert lines.count(BEGIN) == lines.count(END) == 1
    titles = ["## Use", "## Results", "## Recipe", "## Layers", "## How it was made", "## Limits"]
    assert [line for line in lines if line.startswith("#")][1:] == titles
    tables = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} <= {3, 5}
    assert "\x1b" not in outside
    assert "\u202e" not in outside
    assert text_of(mask, existing=card) == card
