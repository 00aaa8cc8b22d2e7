"""Ending a training with model and accelerator as they were before it, so that the next one starts as the first.

A search trains one model many times, and a notebook goes on after an error: neither may depend on what came before.
"""

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING

import torch
from torch import nn

from .parameters.unwrap import unwrap

if TYPE_CHECKING:
    from accelerate import Accelerator

# What `Accelerator.prepare` sets on a model. While the last is there, it prepares the model no second time: without
# mixed precision and without torch.compile.
_SET_BY_ACCELERATE = ("forward", "_original_forward", "_is_accelerate_prepared")
# The model of the last training that was compiled in mixed precision -> (accelerator, forward), and what the one made
# of the other.
_FORWARD = weakref.WeakKeyDictionary[nn.Module, tuple[tuple, Callable]]()


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
        if accelerator.num_processes > 1 and compiles(accelerator):
            torch.compiler.reset()  # what refers to the wrapper of DDP, another one in each training
        release(accelerator)


def keep_compiled_(model: nn.Module, accelerator: "Accelerator") -> None:
    """Let torch find what it compiled for the training before in mixed precision, if that was of this model too: called
    once accelerate has prepared it.

    torch keeps compiled code by the function that accelerate wraps the model's forward in, a new one in each training,
    and for eight of them (`recompile_limit`) and no more. So the model gets the function of its last training, and
    after another model's training all code is forgotten.
    """
    if not (accelerator.native_amp and compiles(accelerator)):
        return
    model = unwrap(model)
    made, original = (getattr(vars(model).get(name), "__func__", None) for name in ("forward", "_original_forward"))
    maker = (weakref.ref(accelerator), original)
    if _FORWARD.get(model, (None,))[0] != maker:
        torch.compiler.reset()
        _FORWARD.clear()
    if made and original:  # a forward that is no method may refer to the model, and would keep it
        model.forward = MethodType(_FORWARD.setdefault(model, (maker, made))[1], model)


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
