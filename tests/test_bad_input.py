"""What a user can get wrong is told by ValueError, with the field, what it has and what it may have."""

import math
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from aws_lottery import SignedMask, SignedMaskConfig, TrainingConfig, evaluate, find_signed_mask, load_data, train
from aws_lottery.data import ImageData, Images, batches
from aws_lottery.experiments.comparison import Comparison
from aws_lottery.experiments.jobs import every_round

ONCE = TrainingConfig(batch_size=8, epochs=1)


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))


def images(count: int = 32, *, classes: int = 3, size: int = 2) -> Images:
    return Images(torch.randn(count, 3, size, size), torch.arange(count) % classes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", math.nan),
        ("learning_rate", -0.1),
        ("momentum", "x"),
        ("weight_decay", -1),
        ("min_learning_rate", math.inf),
        ("milestones", 5),
        ("milestones", ("a",)),
        ("milestones", (0.5, 1.5)),
        ("max_grad_norm", 0),
        ("max_grad_norm", "x"),
        ("ema_decay", "x"),
        ("epochs", True),
        ("epochs", -1),
        ("batch_size", 0),
        ("batch_size", 2.0),
        ("optimizer", []),
        ("schedule", None),
    ],
)
def test_a_training_config_names_the_field(name, value):
    with pytest.raises(ValueError, match=f"^TrainingConfig: {name} must be .*, got "):
        TrainingConfig(**{name: value})


def test_the_ends_of_the_ranges_are_in_them():
    rates = dict.fromkeys(("learning_rate", "momentum", "weight_decay", "min_learning_rate", "ema_decay"), 0)
    assert TrainingConfig(epochs=0, batch_size=1, milestones=(0, 1), **rates).milestones == (0, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"exclude": 5}, "exclude must be a list of strings, got 5"),
        ({"prunable": None}, "prunable must be a list of strings, got None"),
        ({"method": []}, r"unknown method \[\]"),
        ({"protocol": None}, "unknown protocol None"),
        ({"prune_rate": 1e-320, "target_remaining": 0.1}, "prune_rate must be in .*, got 1e-320"),
    ],
)
def test_a_search_config_names_the_field(values, message):
    with pytest.raises(ValueError, match=f"^SignedMaskConfig: {message}"):
        SignedMaskConfig(**values)


def test_a_prune_rate_that_is_next_to_nothing_still_has_a_number_of_rounds():
    assert SignedMaskConfig(prune_rate=1e-9, target_remaining=0.5).rounds == 693147181  # ln 2 / 1e-9


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "5"])
def test_text_that_is_no_search_config_is_told(text):
    with pytest.raises(ValueError, match=r"^SignedMaskConfig: "):
        SignedMaskConfig.from_json(text)


@pytest.mark.parametrize("size", [0, -1, True, 2.5, "8"])
def test_a_batch_size_is_a_number_of_images(size):
    with pytest.raises(ValueError, match="batch_size must be a whole number, 1 or more, got"):
        batches(images(), size)


def test_data_that_a_network_can_not_be_trained_or_measured_on_is_told(accelerator):
    for data, message in (
        (images(classes=5), "data: labels go from 0 to 4, the model has 3 outputs"),
        (images(size=4), r"data: the model can't take an image of shape \(3, 4, 4\)"),
        (images(0), "data has no images"),
    ):
        with pytest.raises(ValueError, match=message):
            train(network(), data, ONCE, accelerator=accelerator, seed=0)
    with pytest.raises(ValueError, match="evaluate: the data has no images"):
        evaluate(network(), images(0), accelerator=accelerator)


def test_a_mask_has_entries_and_a_model_that_has_them_all():
    with pytest.raises(ValueError, match="a signed mask needs at least one entry, this one has none"):
        SignedMask({})
    with pytest.raises(ValueError, match="a mask of 3 entries is not for a model of 1 parameters"):
        SignedMask({"w": torch.ones(3, dtype=torch.int8)}, parameters=1)


def pictures(count: int) -> datasets.Dataset:
    rows = {"image": [Image.fromarray(np.zeros((8, 8, 3), np.uint8))] * count, "label": [0, 1] * (count // 2)}
    return datasets.Dataset.from_dict(
        rows, features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_train_samples": 0}, "max_train_samples must be 1 or more, got 0"),
        ({"test_share": "x"}, "test_share must be between 0 and 1, got 'x'"),
        ({"test_share": 0.0}, "test_share must be between 0 and 1, got 0.0"),
        ({"workers": -1}, "workers must be a whole number, 0 or more, or None, got -1"),
        ({"mean": (0.5, 0.5)}, r"mean must be three numbers, .*, got \(0.5, 0.5\)"),
        ({"std": (1.0, 0.0, 1.0)}, r"std must be three numbers, one a channel \(std: above 0\)"),
    ],
)
def test_load_data_names_the_argument(tmp_path, options, message):
    parts = datasets.DatasetDict({"train": pictures(4), "test": pictures(2)})
    with pytest.raises(ValueError, match=f"^load_data: {message}"):
        load_data(parts, cache_dir=tmp_path, **options)


@pytest.mark.parametrize("path", ["./nowhere", "no where", "/nowhere/at/all"])
def test_a_folder_of_data_that_is_not_there_is_told_without_asking_the_hub(path):
    with pytest.raises(FileNotFoundError, match=f"load_data: no folder '{path}'; give a folder of images or"):
        load_data(path)


def test_what_is_no_data_set_is_told_what_to_give():
    with pytest.raises(
        TypeError, match=r"load_data: takes an id .* got dict; for tensors there is .*Images\(images, lab"
    ):
        load_data({"train": pictures(2)})


def test_images_without_a_folder_for_each_class_are_told_how_they_get_labels():
    unlabelled = datasets.DatasetDict({"train": pictures(2).remove_columns("label")})
    with pytest.raises(ValueError, match=r"none found among image: Image; .* a folder for each of two or more classes"):
        load_data(unlabelled)


def test_a_data_set_without_splits_is_told():
    with pytest.raises(ValueError, match="load_data: the data set has no splits"):
        load_data(datasets.DatasetDict())


@pytest.fixture(scope="module")
def searched(tmp_path_factory, accelerator) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    config = SignedMaskConfig(rounds=1, warmup_epochs=0, epochs_per_round=1)
    find_signed_mask(network(), images(), config, ONCE, output_dir=folder, accelerator=accelerator)
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"searches": "runs/aws"}, r"searches must be a list, got 'runs/aws'; of one alone it is \['runs/aws'\]"),
        ({"seeds": 3}, r"seeds must be a list, got 3; of one alone it is \[3\]"),
        ({"fresh": network()}, "expected a function of a seed that makes a network, got the network Sequential"),
        ({"searches": []}, "nothing to compare: rounds is empty, or searches"),
        ({"rounds": ()}, "nothing to compare: rounds is empty, or searches"),
        ({"seeds": ()}, "nothing to compare: seeds is empty"),
        ({"transfers": ()}, "nothing to compare: transfers is empty"),
        ({"rounds": (7,)}, "no such rounds: .*round-07; has the search come so far"),
        ({"barrier_rounds": (1,), "barrier_seeds": (9,)}, r"barrier_seeds \[9\] are not among the seeds \[1\]"),
    ],
)
def test_a_comparison_of_nothing_is_told(searched, tmp_path, accelerator, options, message):
    data = ImageData(images(), images(), 3, "noise")
    settings = {"searches": [searched], "rounds": (1,), "seeds": (1,), "fresh": lambda seed: network(), **options}
    with pytest.raises((ValueError, TypeError), match=message):
        Comparison(
            data=data,
            training=ONCE,
            output_dir=tmp_path,
            accelerator=accelerator,
            **settings,
        )


def test_folders_that_are_no_rounds_are_passed_over(searched, tmp_path):
    for name in ("round-01", "round-old", "round-02.bak"):
        (tmp_path / name).mkdir()
    assert [one.round for one in every_round([tmp_path])] == [1]
