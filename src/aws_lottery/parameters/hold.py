"""Keeping pruned weights at exactly 0 while anything trains them.

Two hooks do it, for the price of two multiplications by a byte mask a step. After each backward the gradient of a
pruned weight is set to 0, so that clipping norms and optimizer statistics see the sparse network; after each
optimizer step the weights are masked again, so that neither momentum left from before a prune nor an optimizer
that moves weights without gradients brings one back. Survivors train bit for bit as with weight * mask in forward.
"""

import weakref
from collections.abc import Iterator, Mapping
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from ..signs import check_shapes
from .unwrap import parameters_of

_ATTRIBUTE = "_aws_hold"


class Hold:
    """Holds weights of a model to a mask until `remove`; as a context manager, until the end of the block.

    It lives on the model, so a deep copy or an unpickled model is held as well, by a hold of its own. It sees every
    torch.optim optimizer without being told of it. Its masks follow the weights to another device.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]):
        """Zero the weights of `model` where their mask is 0, and keep them there.

        Args:
            masks: name as in model.named_parameters() -> bool or uint8, shaped like the weight.
        Raises: ValueError if the model is held already, or a mask fits no weight.
        """
        if held_by(model) is not None:
            raise ValueError(
                f"this {type(model).__name__} is held to a mask already; remove that hold first "
                "(Hold.remove, or AWSPruner.detach if a pruner holds it)"
            )
        parameters = parameters_of(model)
        check_shapes(masks, parameters, "mask")
        self.model = model
        self.weights = {name: parameters[name] for name in masks}
        self.masks = {name: _laid_out(mask, parameters[name]) for name, mask in masks.items()}
        model.__dict__[_ATTRIBUTE] = self
        self._attach()
        self.zero_()

    def _attach(self) -> None:
        # the hooks know the masks only: one that knew its weight would be a cycle that is never collected
        self._handles = [
            weight.register_post_accumulate_grad_hook(partial(_mask_gradient, self.masks, name))
            for name, weight in self.weights.items()
            if weight.requires_grad
        ]
        self._clean: weakref.WeakSet[Optimizer] = weakref.WeakSet()  # those with no statistics of pruned weights
        _holds().add(self)

    def __getstate__(self) -> dict:
        return {"model": self.model, "weights": self.weights, "masks": self.masks}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._attach()

    def remove(self) -> None:
        """Take the hooks off; the weights stay as they are. A second call does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        _holds().discard(self)
        if held_by(self.model) is self:
            del self.model.__dict__[_ATTRIBUTE]

    def update(self, masks: Mapping[str, Tensor]) -> None:
        """Hold the same weights to other masks from now on (after a prune).

        Raises: RuntimeError if the model has other parameters by now than those that are held.
        """
        now = parameters_of(self.model)
        if replaced := [name for name, weight in self.weights.items() if now.get(name) is not weight]:
            raise RuntimeError(
                f"{len(replaced)} weights of the model are other tensors than at the start, '{replaced[0]}' first; "
                "they were trained without their masks. Sharding (FSDP) is not supported; load with assign=False, and "
                "replace layers before the pruner takes the model"
            )
        check_shapes(masks, self.weights, "mask")
        self.masks.update({name: _laid_out(mask, self.weights[name]) for name, mask in masks.items()})
        self._clean.clear()
        self.zero_()

    @torch.no_grad()
    def zero_(self, model: nn.Module | None = None) -> None:
        """Zero the pruned weights of the held model, or of another with the same names (an average of its weights)."""
        weights = self.weights if model is None else parameters_of(model)
        for name in self.masks:
            weights[name].mul_(_fit(self.masks, name, weights[name]))

    @torch.no_grad()
    def guard_(self, optimizer: Optimizer) -> None:
        """Zero the pruned weights that `optimizer` moves, and, once after a prune, its statistics of them."""
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, weight in self.weights.items():
            if id(weight) in owned:
                for value in (weight, *self._stale(optimizer, weight)):
                    value.mul_(_fit(self.masks, name, value))
        self._clean.add(optimizer)

    def _stale(self, optimizer: Optimizer, weight: Tensor) -> Iterator[Tensor]:
        if optimizer not in self._clean:
            for value in optimizer.state.get(weight, {}).values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    yield value

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


def held_by(model: nn.Module) -> Hold | None:
    """The hold on this model, if any."""
    return model.__dict__.get(_ATTRIBUTE)


@cache
def _holds() -> "weakref.WeakSet[Hold]":
    """The holds in force, all of which are told of every optimizer step from the first call on."""
    holds: weakref.WeakSet[Hold] = weakref.WeakSet()

    def guard(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        for hold in list(holds):
            hold.guard_(optimizer)

    register_optimizer_step_post_hook(guard)
    return holds


def _mask_gradient(masks: dict[str, Tensor], name: str, weight: Tensor) -> None:
    assert weight.grad is not None
    weight.grad.mul_(_fit(masks, name, weight))


def _fit(masks: dict[str, Tensor], name: str, like: Tensor) -> Tensor:
    """The mask on the device of `like`: it follows a model that moves, once."""
    if masks[name].device != like.device:
        masks[name] = masks[name].to(like.device)
    return masks[name]


def _laid_out(mask: Tensor, like: Tensor) -> Tensor:
    """A uint8 copy on the device and in the memory format of `like`: multiplying across formats takes 1.8x as long."""
    return torch.empty_like(like, dtype=torch.uint8, requires_grad=False).copy_(mask)
