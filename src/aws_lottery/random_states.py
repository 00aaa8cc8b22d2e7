"""The states of the random generators that a training draws from, as plain data."""

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """Those of Python, numpy and torch in this process."""
    version, internal, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    return {
        "python": (version, list(internal), gauss),
        "numpy": json.dumps(numpy_state, default=lambda array: array.tolist()),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Go on from what `random_states` gave."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(json.loads(states["numpy"]))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def torch_aside() -> AbstractContextManager[None]:
    """A `with` block after which torch's random states are what they were, on all devices; without naming these, torch
    warns of every second one."""
    return torch.random.fork_rng(devices=range(torch.accelerator.device_count()))


@contextmanager
def aside(seed: int) -> Iterator[None]:
    """Draw from `seed` in the block, and leave the generators after it as they were before."""
    states = random_states()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        set_random_states(states)
