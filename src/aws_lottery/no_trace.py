"""Ending a training with model and accelerator as they were before it, so that the next one starts as the first.

A search trains one model many times, and a notebook goes on after an error: neither may depend on what came before.
"""

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from .parameters.unwrap import unwrap

if TYPE_CHECKING:
    from accelerate import Accelerator

# What `Accelerator.prepare` sets on a model. While the last is there, it prepares the model no second time: without
# mixed precision and without torch.compile.
_SET_BY_ACCELERATE = ("forward", "_original_forward", "_is_accelerate_prepared")


@contextmanager
def leaving_no_trace(model: nn.Module, accelerator: "Accelerator") -> Iterator[None]:
    """`accelerator` may prepare `model` in the block; afterwards, also after an error, both are as they were.

    The loss scaler of fp16 starts in the block as it was before it, whatever it becomes there.
    """
    modules = {model, unwrap(model)}  # a compiled module passes some attributes on to the one within
    before = {
        module: {name: vars(module)[name] for name in _SET_BY_ACCELERATE if name in vars(module)} for module in modules
    }
    loaders, scaler = accelerator.gradient_state.dataloader_references, accelerator.scaler
    accelerator.scaler = copy.deepcopy(scaler)
    accelerator.step = 0  # backward passes since the last optimizer step, of a loop of the caller's own that was cut
    try:
        yield
    finally:
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # takes off the layers of fp8
        for module in modules:
            for name in _SET_BY_ACCELERATE:
                vars(module).pop(name, None)
            vars(module).update(before[module])
        accelerator.gradient_state.dataloader_references = loaders
        accelerator.scaler = scaler
        _forget_compiled(accelerator)
        release(accelerator)


def _forget_compiled(accelerator: "Accelerator") -> None:
    """The code that was compiled, if it refers to wrappers of the model that were made for one training: torch compiles
    for eight of them (`recompile_limit`), and no more."""
    if compiles(accelerator) and (accelerator.native_amp or accelerator.num_processes > 1):
        torch.compiler.reset()


def compiles(accelerator: "Accelerator") -> bool:
    """Whether it compiles the models that it prepares."""
    from accelerate.utils import DynamoBackend

    plugin = accelerator.state.dynamo_plugin
    return plugin is not None and plugin.backend != DynamoBackend.NO


def release(accelerator: "Accelerator") -> None:
    """Let accelerate forget what it has prepared.

    It collects all garbage then, which frees a device's memory; on a CPU that takes a third of a second, more than a
    short training, and what is frozen is not looked at.
    """
    needless = accelerator.device.type == "cpu" and not gc.get_freeze_count()
    if needless:
        gc.freeze()
    try:
        accelerator.free_memory()
    finally:
        if needless:
            gc.unfreeze()
