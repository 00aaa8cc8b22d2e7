"""Random interpolation of normalization parameters at every training forward (Eq. 2; Algorithm 1, lines 3-4).

The root module draws one alpha per training forward; each normalization layer runs its own forward with
(psi, psi_init)_alpha in the place of psi. In evaluation, psi itself is used. Everything is plain tensor
arithmetic, so that torch.compile sees one graph whatever alpha is, and nothing shows in the state_dict.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..signs import interpolate
from .unwrap import clean_name

_STATE = "_aws_alpha_state"  # buffer of the root: the state of alpha's random stream
_INIT = "_aws_init_"  # prefix of a norm layer's buffers that hold psi_init

# The multiplicative congruential generator MINSTD (Park, Miller and Stockmeyer, 1993): one integer of state
# that any device steps alike, inside a compiled graph, on every rank, and that is all there is to resume.
_MULTIPLIER, _MODULUS = 48271, 2**31 - 1


class Alpha:
    """alpha ~ U(0, 1), one draw per training forward of the root, shared by all its normalization layers.

    `value` is the draw in force, a 0-d float32 tensor, or None where psi is to be used as it is. It stays after
    the forward, so that activation checkpointing recomputes with the same alpha.
    """

    def __init__(self, enabled: bool = True):
        self.enabled = enabled
        self.value: Tensor | None = None

    def draw(self, root: nn.Module, args: tuple) -> None:
        """Forward pre-hook of the root."""
        self.value = None
        if self.enabled and root.training:
            state = root.get_buffer(_STATE)
            state.copy_(state * _MULTIPLIER % _MODULUS)
            self.value = state.to(torch.float32) / _MODULUS  # a fresh tensor: backward still needs the last one


class InterpolatedForward:
    """The forward of a normalization layer, run with (psi, psi_init)_alpha in training."""

    def __init__(self, module: nn.Module, alpha: Alpha, unit_psi_init: bool):
        self.module = module
        self.alpha = alpha
        self.names = [name for name, psi in module.named_parameters(recurse=False)]
        self.replaced = module.__dict__.get("forward")  # set on the instance by somebody before us
        for name in self.names:
            psi_init = module.get_parameter(name).detach().clone()
            if unit_psi_init:
                psi_init.fill_(0.0 if name.endswith("bias") else 1.0)
            module.register_buffer(_INIT + name, psi_init, persistent=False)

    def __call__(self, *args, **kwargs):
        alpha = self.alpha.value
        if alpha is None or not self.module.training:
            return self._forward(*args, **kwargs)
        parameters: dict[str, Any] = self.module._parameters
        buffers: dict[str, Any] = self.module._buffers
        psi = {name: parameters[name] for name in self.names}
        try:
            parameters.update(interpolate(psi, {name: buffers[_INIT + name] for name in psi}, alpha))
            return self._forward(*args, **kwargs)
        finally:
            parameters.update(psi)

    def _forward(self, *args, **kwargs):
        if self.replaced is not None:
            return self.replaced(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)


def attach(root: nn.Module, norms: Iterable[nn.Module], seed: int, *, unit_psi_init: bool = False) -> Alpha:
    """Make the norm layers of `root` interpolate between their parameters and what these are now (psi_init).

    Args:
        root: the module whose forward draws alpha.
        norms: submodules of root, each with at least one parameter of its own.
        seed: of alpha's stream; every rank must use the same.
        unit_psi_init: take scale 1 and bias 0 for psi_init instead.
    Returns: the switch and current draw.
    """
    alpha = Alpha()
    start = torch.randint(1, _MODULUS, (), generator=torch.Generator().manual_seed(seed))
    root.register_buffer(_STATE, start.to(next(root.parameters()).device), persistent=False)
    root.register_forward_pre_hook(alpha.draw)
    for norm in norms:
        norm.forward = InterpolatedForward(norm, alpha, unit_psi_init)
    return alpha


def state(root: nn.Module) -> dict[str, Tensor]:
    """psi_init and the state of alpha's stream by buffer name, as `load_state` takes them; empty if none attached."""
    return {name: value for name, value in root.named_buffers() if name.rpartition(".")[2].startswith((_STATE, _INIT))}


def load_state(root: nn.Module, values: dict[str, Tensor]) -> None:
    """Copy what `state` gave into a root on which the same has been attached."""
    for name, buffer in state(root).items():
        buffer.copy_(values[name])


def set_psi_init(root: nn.Module, psi_init: Mapping[str, Tensor]) -> None:
    """Interpolate towards these instead of what the norm layers had when they were attached.

    Args:
        psi_init: name of the parameter -> its value in a fresh network, shaped like it; other names may be among them.
    Raises: ValueError that names what is missing or has another shape.
    """
    for name, buffer in state(root).items():
        if _INIT in name:
            parameter = clean_name(name.replace(_INIT, ""))
            if parameter not in psi_init or psi_init[parameter].shape != buffer.shape:
                found = tuple(psi_init[parameter].shape) if parameter in psi_init else "missing"
                raise ValueError(f"psi_init: '{parameter}' is {found}, the model has {tuple(buffer.shape)}")
            buffer.copy_(psi_init[parameter])


def detach(root: nn.Module) -> None:
    """Remove what `attach` put on `root`, or on the model that it is a copy of."""
    root._buffers.pop(_STATE, None)
    root._non_persistent_buffers_set.discard(_STATE)
    for key, hook in list(root._forward_pre_hooks.items()):
        if isinstance(getattr(hook, "__self__", None), Alpha):
            del root._forward_pre_hooks[key]
    for module in root.modules():
        forward = module.__dict__.get("forward")
        if isinstance(forward, InterpolatedForward):
            _restore(module, forward)


def _restore(module: nn.Module, forward: InterpolatedForward) -> None:
    del module.forward
    if forward.replaced is not None:
        module.forward = forward.replaced
    for name in forward.names:
        delattr(module, _INIT + name)
