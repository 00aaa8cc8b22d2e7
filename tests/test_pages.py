"""The Python blocks of the README and of the pages run as they stand, with fewer epochs, rounds and seeds.

Blocks of one page share their names, as a reader would run them. What a page takes for granted ("your model") is made
here; what it fetches from the Hub comes from one on this machine.
"""

import re
import runpy
from collections import OrderedDict
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import datasets
import hub_fixtures
import pytest
import torch
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub
from PIL import Image
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser
from sybil.region import Lexeme
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import ResNetConfig, ResNetForImageClassification

import aws_lottery.data
from aws_lottery import CRITERIA, METHODS, PROTOCOLS, TRANSFERS, AWSPruner, SignedMask, SignedMaskConfig
from aws_lottery.data import Images, digit_images
from aws_lottery.data.presets import KNOWN
from aws_lottery.models import ARCHITECTURES
from aws_lottery.training_config import OPTIMIZERS

ROOT = Path(__file__).parent.parent
SHORTER = {
    "rounds=12, warmup_epochs=8, epochs_per_round=4": "rounds=2, warmup_epochs=1, epochs_per_round=1",
    "rounds=4, warmup_epochs=4, epochs_per_round=2": "rounds=2, warmup_epochs=1, epochs_per_round=1",
    "replace(config, rounds=5)": "replace(config, rounds=3)",
    "[:256_000]": "[:8_000]",
    "rounds=5, warmup_epochs=5, epochs_per_round=5": "rounds=1, warmup_epochs=1, epochs_per_round=1",
    "rounds=5, warmup_epochs=2, epochs_per_round=2": "rounds=1, warmup_epochs=1, epochs_per_round=1",
    "num_train_epochs=30": "num_train_epochs=1",
    " epochs=20": " epochs=1",
    "TrainingConfig(epochs=20": "TrainingConfig(epochs=1",
    "seeds=[1, 2, 3, 4, 5]": "seeds=[1]",
    "(epochs=10, ": "(epochs=1, ",
    "(epochs=4, ": "(epochs=1, ",
    "seeds=[1, 2, 3]": "seeds=[1]",
    "rounds=[12]": "rounds=[2]",
    '"dense", "solution", "signs", "mask", "random-signs"': '"signs"',
    "search/round-12": "search/round-02",
}
HUB_ID = "org/resnet50-aws-0.14"
TABLES = (METHODS, PROTOCOLS, CRITERIA, TRANSFERS, ARCHITECTURES, KNOWN, OPTIMIZERS)  # to which pages add rows


def small_network() -> nn.Module:
    """Named as a ResNet: 1x8x8 images -> 10 logits."""
    block = nn.Sequential(OrderedDict(conv1=nn.Conv2d(1, 4, 3, bias=False), bn1=nn.BatchNorm2d(4)))
    layers = OrderedDict(layer1=nn.Sequential(block), pool=nn.Flatten(), fc=nn.Linear(4 * 36, 10))
    return nn.Sequential(layers)


def small_mask(model: nn.Module | None = None, seed: int = 0) -> SignedMask:
    return SignedMask.from_model(model or small_network(), SignedMaskConfig()).with_random_signs(seed)


def some_digits(split: str) -> Images:
    return Images(*(tensor[:128] for tensor in digit_images(split).tensors))


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(4, 1, 8, 8)).square().mean().backward()
    optimizer.step()


def of_readme() -> dict[str, Any]:
    mask = small_mask()
    mask.push_to_hub(HUB_ID)
    HfApi().create_tag(HUB_ID, tag="v1")
    networks = {name: small_network() for name in ("model", "trained", "fresh_model", "model_a", "model_b")}
    return {
        **networks,
        "train_one_epoch": one_step,
        "train_data": some_digits("train"),
        "test_data": some_digits("test"),
    }


def of_hub() -> dict[str, Any]:
    """The names of torchvision for one block of a ResNet, and transformers' network for it."""
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_labels=3)
    model = ResNetForImageClassification(config)
    names = {
        "resnet.embedder.embedder.convolution.weight": "conv1.weight",
        "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight": "layer1.0.conv1.weight",
        "resnet.encoder.stages.0.layers.0.layer.1.convolution.weight": "layer1.0.conv2.weight",
        "classifier.1.weight": "fc.weight",
        "classifier.1.bias": "fc.bias",
    }
    found = SignedMask.from_model(model, SignedMaskConfig())
    prunable = [names[name] for name in found.prunable]
    mask = SignedMask({names[n]: v for n, v in found.items()}, prunable=prunable, parameters=found.parameters)
    mask.push_to_hub("me/resnet50-aws-0.14")
    HfApi().create_tag("me/resnet50-aws-0.14", tag="v1")
    return {"mask": mask, "model": model}


def of_trainer() -> dict[str, Any]:
    Path("corpus.txt").write_text("to be or not to be " * 30)
    return {}


def of_averages() -> dict[str, Any]:
    model = small_network()
    names = {
        "AveragedModel": AveragedModel,
        "get_ema_multi_avg_fn": get_ema_multi_avg_fn,
        "cross_entropy": nn.functional.cross_entropy,
        "batches": [(torch.rand(4, 1, 8, 8), torch.arange(4))],
    }
    pruner = AWSPruner(model, SignedMaskConfig(rounds=1, warmup_epochs=1, epochs_per_round=1))
    return {**names, "model": model, "pruner": pruner, "optimizer": torch.optim.SGD(model.parameters())}


def of_export() -> dict[str, Any]:
    model, fresh, another = (small_network() for _ in range(3))
    mask = SignedMask.from_model(model, SignedMaskConfig())
    return {"model": model, "fresh": fresh, "another": another, "mask": mask}


def of_offline() -> dict[str, Any]:
    small_mask().push_to_hub(HUB_ID)
    HfApi().create_tag(HUB_ID, tag="v1")
    for split, label, number in product(("train", "test"), ("cat", "dog"), range(3)):
        path = Path("images-of-mine", split, label, f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), color=(40 * number, 0, 0)).save(path)
    return {}


def of_sharding() -> dict[str, Any]:
    """One process that takes itself for a group; tests/test_sharding.py has four."""

    def in_blocks() -> nn.Module:
        layers = OrderedDict(blocks=nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), head=nn.Linear(4, 2))
        return nn.Sequential(layers)

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    SignedMask.from_model(in_blocks()).push_to_hub("org/name")
    config = SignedMaskConfig(rounds=1, warmup_epochs=1, epochs_per_round=1)
    return {"model": in_blocks(), "config": config, "sharded_model": fully_shard(in_blocks())}


def of_verify() -> dict[str, Any]:
    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return small_network()

    small_mask().save_pretrained("my-mask")
    return {"network": network}


PAGES: dict[str, Callable[[], dict[str, Any]]] = {  # page -> what its code takes for granted
    "README.md": of_readme,
    "docs/commands.md": lambda: {name: small_mask(seed=seed) for seed, name in enumerate("abc")},
    "docs/export.md": of_export,
    "docs/extending.md": dict,
    "docs/hub.md": of_hub,
    "docs/offline.md": of_offline,
    "docs/sharding.md": of_sharding,
    "docs/verify.md": of_verify,
    "docs/partition.md": of_averages,
    "docs/trainer.md": of_trainer,
    "docs/tutorials/own-loop.md": dict,
    "docs/tutorials/accelerate.md": dict,
    "docs/tutorials/share.md": dict,
    "docs/tutorials/verify.md": dict,
    "docs/tutorials/language-model.md": dict,
}


def run_shortened(example: Example) -> None:
    source = example.parsed
    for full, short in SHORTER.items():
        source = source.replace(full, short)
    example.parsed = Lexeme(source, 0, example.parsed.line_offset)
    PythonEvaluator()(example)


CODE_BLOCKS = Sybil(parsers=[CodeBlockParser(language="python", evaluator=run_shortened)])


@pytest.fixture
def _hub_and_folder_of_the_page(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(aws_lottery.data, "digit_images", some_digits)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    with LoopbackHub() as hub:
        hub_fixtures.use_hub(hub, monkeypatch, tmp_path / "home")
        before = [dict(table) for table in TABLES]
        yield
        for table, rows in zip(TABLES, before, strict=True):
            table.clear()
            table.update(rows)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("_hub_and_folder_of_the_page")
@pytest.mark.filterwarnings(
    hub_fixtures.LFS_UPLOAD_WARNING,
    "ignore:'pin_memory' argument:UserWarning",
    "ignore:.*LeafSpec:FutureWarning",  # torch's own, of its exporter to ONNX
)
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs_from_top_to_bottom(page):
    document = CODE_BLOCKS.parse(ROOT / page)
    document.namespace.update(PAGES[page]())
    for example in document.examples():
        example.evaluate()


def test_every_page_with_code_is_run_here():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    with_code = {path.relative_to(ROOT).as_posix() for path in pages if "```python\n" in path.read_text("utf-8")}
    assert with_code == PAGES.keys()


def test_what_is_shortened_is_on_a_page():
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    assert [full for full in SHORTER if full not in text] == []


def test_the_reference_has_every_public_name_and_every_command():
    from aws_lottery import __all__
    from aws_lottery.cli.commands import COMMANDS

    api = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"(?:::|:data\}) aws_lottery\.(\w+)$", api, re.MULTILINE)) == sorted(
        set(__all__) - {"__version__"}
    )
    options = (ROOT / "docs/reference/options.md").read_text(encoding="utf-8")
    assert re.findall(r"^:func: (\w+)$", options, re.MULTILINE) == list(COMMANDS)


def test_docstrings_become_what_sphinx_reads():
    lines = [
        "|theta| * s by `apply_`, see __init__.",
        "Returns: a mask,",
        "    nested in `mask`.",
        "Raises: ValueError.",
        "    >>> 2 * 3 | 4",
        "    6",
    ]
    runpy.run_path(str(ROOT / "docs/site/conf.py"))["as_rst"](None, "function", "f", None, None, lines)
    assert lines == [
        r"\|theta\| \* s by ``apply_``, see __init_\_.",
        ":returns: a mask,",
        "    nested in ``mask``.",
        ":raises: ValueError.",
        "    >>> 2 * 3 | 4",
        "    6",
    ]
