"""Random interpolation of normalization parameters at every training forward (Eq. 2; Algorithm 1, lines 3-4).

The root module draws one alpha per training forward; each normalization layer runs its own forward with
(psi, psi_init)_alpha in the place of psi. In evaluation, psi itself is used. Everything is plain tensor
arithmetic, so that torch.compile sees one graph whatever alpha is, and nothing shows in the state_dict.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..sharding import as_laid_out, is_sharded, whole
from ..signs import interpolate
from .unwrap import clean_name, modules_of

_STATE = "_aws_alpha_state"  # the state of alpha's random stream, in `state`
_INIT = "_aws_init_"  # prefix of psi_init in `state`

# The multiplicative congruential generator MINSTD (Park, Miller and Stockmeyer, 1993): one integer of state
# that every device and rank steps alike, also inside a compiled graph, and that is enough to resume the stream.
_MULTIPLIER, _MODULUS = 48271, 2**31 - 1


_NO_SCRIPT = (
    "torch.jit.script can't compile a model whose normalization a pruner interpolates; script pruner.sparse_copy(), "
    "or end the search first (AWSPruner.detach)"
)


class Tensors(nn.Module):
    """Tensors that torch.compile takes for buffers, yet no submodule: exports and state_dicts don't see them. They
    follow the model to another device and dtype when they are next used."""

    def __init__(self, **tensors: Tensor):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def get(self, name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
        tensor = self._buffers[name]  # several times as quick as get_buffer
        assert tensor is not None
        if tensor.device != device or tensor.dtype != dtype:
            tensor = self._buffers[name] = tensor.to(device, dtype)
        return tensor


class Alpha:
    """alpha ~ U(0, 1), one draw per training forward of the root, shared by all its normalization layers.

    Activation checkpointing runs layers again during backward; there alpha is the one of the forward whose gradient
    is computed. It is identified by the order in which autograd numbers the operations that it records.
    """

    def __init__(self, seed: int = 0, norms: Sequence[nn.Module] = ()):
        """Args:
        seed: of the stream.
        norms: the layers; alpha is drawn on the device of the first.
        """
        self.enabled = bool(norms)
        self.norms = norms
        state = torch.randint(1, _MODULUS, (), generator=torch.Generator().manual_seed(seed))
        self.stream = Tensors(state=state.to(self._device) if norms else state)
        self._start()

    def _start(self) -> None:
        self.value: Tensor | None = None  # the last draw, 0-d float32; None where psi is to be used as it is
        # autograd's number at the start of each of the last forwards, and its draw: as many as may wait for a backward
        self._draws: deque[tuple[int, Tensor | None]] = deque(maxlen=1024)

    def __getstate__(self) -> dict:
        return {"enabled": self.enabled, "norms": self.norms, "stream": self.stream}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._start()

    @property
    def __name__(self) -> str:
        """What torch.jit.script asks of a hook first."""
        raise RuntimeError(_NO_SCRIPT)

    def __call__(self, root: nn.Module, args: tuple) -> None:
        """Draw; the forward pre-hook of the root."""
        if _number_in_backward() is not None:
            return
        self.value = None
        if self.enabled and root.training:
            state = self.stream.get("state", self._device, torch.int64)
            state.copy_(state * _MULTIPLIER % _MODULUS)
            self.value = state.to(torch.float32) / _MODULUS  # a fresh tensor: backward still needs the last one
        if not torch.compiler.is_compiling():
            self._draws.append((torch.autograd._get_sequence_nr(), self.value))  # pyright: ignore[reportPrivateImportUsage]

    @property
    def _device(self) -> torch.device:
        return next(psi.device for psi in self.norms[0]._parameters.values() if psi is not None)

    @property
    def position(self) -> int:
        """Where the stream stands, which each draw moves."""
        return int(self.stream.get_buffer("state"))

    def in_force(self) -> Tensor | None:
        """The draw of the forward that a layer belongs to."""
        number = _number_in_backward()
        if number is None:
            return self.value
        return next((value for start, value in reversed(self._draws) if start <= number), self.value)


def _number_in_backward() -> int | None:
    """Of the autograd node whose backward runs now; None in an ordinary forward, and where torch.compile looks on."""
    if torch.compiler.is_compiling() or torch._C._current_graph_task_id() == -1:
        return None
    return torch._C._current_autograd_node()._sequence_nr()


class InterpolatedForward:
    """The forward of a normalization layer, run with (psi, psi_init)_alpha in training."""

    def __init__(self, module: nn.Module, alpha: Alpha, unit_psi_init: bool):
        self.module = module
        self.alpha = alpha
        self.replaced = module.__dict__.get("forward")  # a forward that was set on the instance before
        self.psi_init = Tensors()
        # of sharded layers, FSDP2 runs the forward with whole parameters, tensor parallel with sharded ones
        self.sharded = any(map(is_sharded, module.parameters(recurse=False)))
        for name, psi in module.named_parameters(recurse=False):
            value = whole(psi.detach()).clone()
            self.psi_init.register_buffer(name, value.fill_(not name.endswith("bias")) if unit_psi_init else value)

    def __call__(self, *args, **kwargs):
        if not self.module.training or (alpha := self.alpha.in_force()) is None:
            return self._forward(*args, **kwargs)
        parameters: dict[str, Any] = self.module._parameters
        psi = {name: parameters[name] for name in self.psi_init._buffers}
        psi_init = {name: self.psi_init.get(name, value.device, value.dtype) for name, value in psi.items()}
        if self.sharded:
            psi_init = {name: as_laid_out(value, psi[name]) for name, value in psi_init.items()}
        try:
            parameters.update(interpolate(psi, psi_init, alpha))
            return self._forward(*args, **kwargs)
        finally:
            parameters.update(psi)

    def _forward(self, *args, **kwargs):
        if self.replaced is not None:
            return self.replaced(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)

    @property
    def _torchscript_modifier(self) -> None:
        """What torch.jit.script asks of a forward first."""
        raise RuntimeError(_NO_SCRIPT)


def attach(root: nn.Module, norms: Sequence[nn.Module], seed: int, *, unit_psi_init: bool = False) -> Alpha:
    """Make the norm layers of `root` interpolate between their parameters and what these are now (psi_init).

    Args:
        root: the module whose forward draws alpha.
        norms: submodules of root, each with at least one parameter of its own.
        seed: of alpha's stream; every rank must use the same.
        unit_psi_init: take scale 1 and bias 0 for psi_init instead.
    Returns: the switch and current draw.
    """
    alpha = Alpha(seed, norms)
    root.register_forward_pre_hook(alpha)
    for norm in norms:
        norm.forward = InterpolatedForward(norm, alpha, unit_psi_init)
    return alpha


def replaced(root: nn.Module, norms: Collection[str]) -> list[str]:
    """Those of the layers `norms` that are no longer what `attach` made interpolate. One with a forward of somebody
    else's is taken to call ours."""
    modules = modules_of(root)
    return [name for name in norms if name in modules and "forward" not in modules[name].__dict__]


def state(root: nn.Module) -> dict[str, Tensor]:
    """psi_init and the state of alpha's stream by name, as `load_state` takes them; empty if none attached."""
    values = {}
    for alpha in _alphas(root).values():
        values[_STATE] = alpha.stream.get_buffer("state")
    for name, module in root.named_modules():
        if isinstance(forward := module.__dict__.get("forward"), InterpolatedForward):
            prefix = f"{name}.{_INIT}" if name else _INIT
            values |= {prefix + leaf: value for leaf, value in forward.psi_init.named_buffers()}
    return values


def load_state(root: nn.Module, values: dict[str, Tensor]) -> None:
    """Copy what `state` gave into a root on which the same has been attached."""
    for name, tensor in state(root).items():
        tensor.copy_(values[name])


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
    for key in _alphas(root):
        del root._forward_pre_hooks[key]
    for module in root.modules():
        forward = module.__dict__.get("forward")
        if isinstance(forward, InterpolatedForward):
            del module.forward
            if forward.replaced is not None:
                module.forward = forward.replaced


def _alphas(root: nn.Module) -> dict[int, Alpha]:
    """By the keys of their hooks: one at most."""
    return {key: hook for key, hook in root._forward_pre_hooks.items() if isinstance(hook, Alpha)}
