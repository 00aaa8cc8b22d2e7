"""Shared by all tests: one thread, fixed seeds, and small networks to try things on."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from unittest import mock

import pytest
import torch
from torch import nn

if TYPE_CHECKING:
    from accelerate import Accelerator

    from aws_lottery.data import Images

torch.set_num_threads(1)  # two threads collapse when anything else runs


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """What a library sets for its own processes, as accelerate does for FSDP, is not there for those of other tests."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """A command line that ran in a test leaves its log level to no other test."""
    yield
    logging.getLogger("aws_lottery").setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def _full_precision() -> Iterator[None]:
    """A test that trained in bf16 leaves that to no other test: all accelerators of a process share it."""
    yield
    state = sys.modules.get("accelerate.state")
    if state is not None and state.AcceleratorState._shared_state.get("_mixed_precision", "no") != "no":
        state.AcceleratorState._reset_state(reset_partial_state=True)
        sys.modules["accelerate"].Accelerator(cpu=True)  # for the accelerators that there are


def small_convnet() -> nn.Module:
    """Two convolutions, both kinds of norm, biases, a classifier: 3x6x6 images -> 4 logits."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 4),
    )


@pytest.fixture
def convnet() -> nn.Module:
    return small_convnet()


@pytest.fixture
def make_convnet() -> Callable[[], nn.Module]:
    return small_convnet


@pytest.fixture
def images() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Four batches of 8 images with labels that can be learnt."""
    x = torch.randn(4, 8, 3, 6, 6)
    return [(batch, batch.mean(dim=(2, 3)).argmax(1)) for batch in x]


@pytest.fixture
def data(images: list[tuple[torch.Tensor, torch.Tensor]]) -> "Images":
    """The 32 of `images` as a data set."""
    from aws_lottery.data import Images

    return Images(torch.cat([x for x, _ in images]), torch.cat([y for _, y in images]))


@pytest.fixture
def accelerator() -> "Accelerator":
    from accelerate import Accelerator

    return Accelerator(cpu=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
