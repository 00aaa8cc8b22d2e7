"""Keeping pruned weights at exactly 0 while anything trains them.

Two hooks do it, for the price of two multiplications by a byte mask a step. After each backward the gradient of a
pruned weight is set to 0, so that clipping norms and optimizer statistics see the sparse network; after each
optimizer step the weights are masked again, so that neither momentum left from before a prune nor an optimizer
that moves weights without gradients brings one back. Survivors train bit for bit as with weight * mask in forward.

A weight is held by its name, whatever tensor stands there: before each step the hold looks whether the tensors are
still the same, and follows the new ones if not. What load_state_dict puts into a held model is masked at once.
"""

import logging
import weakref
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ..sharding import is_sharded
from ..signs import check_shapes, remaining
from .places import Places, explain, why_lost
from .unwrap import class_name, clean_name, every_name_of, parameters_of
from .weight_mask import LoadHook, Mask

logger = logging.getLogger(__name__)

_ATTRIBUTE = "_aws_hold"


class Hold:
    """Holds weights of a model to a mask until `remove`; as a context manager, until the end of the block.

    It lives on the model, so a deep copy or an unpickled model is held as well, by a hold of its own. It sees every
    torch.optim optimizer by itself. It follows the weights to another device, and to tensors that
    take their place under the same name and in the same shape.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from aws_lottery import SignedMask
        >>> model = nn.Linear(2, 1, bias=False)
        >>> mask = SignedMask({"weight": torch.tensor([[1, 0]], dtype=torch.int8)})
        >>> with mask.held(model):
        ...     model(torch.ones(1, 2)).sum().backward()
        ...     torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9).step()
        >>> model.weight[0, 1].item()
        0.0
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]):
        """Zero the weights of `model` where their mask is 0, and keep them there.

        Args:
            model: any module that no hold is on.
            masks: name as in model.named_parameters() -> bool or uint8, shaped like the weight.

        Raises:
            ValueError: If the model, or one of the weights through another model that it is in, is held already, or if
                a mask fits no weight.
        """
        if held_by(model) is not None:
            raise ValueError(
                f"this {class_name(model)} is held to a mask already; remove that hold first "
                "(Hold.remove, or AWSPruner.detach if a pruner holds it)"
            )
        parameters = parameters_of(model)
        check_shapes(masks, parameters, "mask")
        _refuse_held({name: parameters[name] for name in masks})
        self.model = model
        self._masks = {name: Mask(name, mask, parameters[name]) for name, mask in masks.items()}
        held = {id(parameters[name]): mask for name, mask in self._masks.items()}
        self._tensors = {name: tensor for name, tensor in every_name_of(model).items() if id(tensor) in held}
        self._mask_of = {name: held[id(tensor)] for name, tensor in self._tensors.items()}  # a tied one by each name
        model.__dict__[_ATTRIBUTE] = self
        self._start()
        self._look_up()
        model.register_load_state_dict_post_hook(self._after_load)
        self.zero_()

    @property
    def masks(self) -> dict[str, Tensor]:
        """Name -> uint8, 1 where the weight is left: the masks in force, each on the device of its weight."""
        return {name: mask.on(self._tensors[name]) for name, mask in self._masks.items()}

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """Name -> the tensor that is held."""
        return {name: self._tensors[name] for name in self._masks}

    @property
    def remaining(self) -> float:
        """Share of the held weights that are left."""
        return remaining(self.masks)

    def __repr__(self) -> str:
        """What is held; without what is left of sharded weights, which all processes would have to count together."""
        masks, what = self.masks, f"{type(self).__name__} on {class_name(self.model)}"
        sharded = any(map(is_sharded, masks.values()))
        lines = [
            f"  {name} {tuple(m.shape)}: " + ("sharded" if sharded else f"{int(m.count_nonzero()):,} of {m.numel():,}")
            for name, m in masks.items()
        ]
        if lines[12:]:
            lines[10:] = [f"  and {len(lines) - 10} more"]
        left = "" if sharded else f"{self.remaining:.4g} of "
        total = sum(mask.numel() for mask in masks.values())
        return "\n".join([f"{what}: {left}{total:,} weights in {len(masks)} tensors", *lines])

    def _start(self) -> None:
        self._places: Places | None = None  # a copy is not whole when it gets its hold, so they are looked up later
        self._handles: dict[int, Any] = {}  # of gradient hooks, by id of the tensor
        self._clean: weakref.WeakSet[Optimizer] = weakref.WeakSet()  # those with no statistics of pruned weights
        self.trained = False  # whether an optimizer moved any of the weights; whoever asks sets it back
        self._hook_gradients()
        _holds().add(self)

    def _hook_gradients(self) -> None:
        tensors = {id(tensor): (name, tensor) for name, tensor in self._tensors.items()}
        for gone in self._handles.keys() - tensors.keys():
            self._handles.pop(gone).remove()
        for key, (name, tensor) in tensors.items():
            if tensor.requires_grad and key not in self._handles:
                self._handles[key] = tensor.register_post_accumulate_grad_hook(self._mask_of[name].zero_gradient)
        self._frozen = [tensor for key, (_, tensor) in tensors.items() if key not in self._handles]

    def _look_up(self) -> None:
        self._places = Places(self.model, self._tensors)
        for owner, names in self._places.owners().items():
            if not self._load_hooks(owner):
                masks = {leaf: self._mask_of[name] for leaf, name in names.items()}
                owner.register_load_state_dict_post_hook(LoadHook(masks))

    def _load_hooks(self, module: nn.Module) -> dict[int, LoadHook]:
        """Those of this hold on a module, by their keys among its hooks."""
        return {
            key: hook
            for key, hook in module._load_state_dict_post_hooks.items()
            if isinstance(hook, LoadHook) and all(self._masks.get(m.name) is m for m in hook.masks.values())
        }

    def __getstate__(self) -> dict:
        return {name: self.__dict__[name] for name in ("model", "_masks", "_mask_of", "_tensors")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._start()

    def remove(self) -> None:
        """Take the hooks off; the weights stay as they are. A second call does nothing."""
        for handle in self._handles.values():
            handle.remove()
        self._handles = {}
        for module in self.model.modules():
            hooks = module._load_state_dict_post_hooks
            for key in [*self._load_hooks(module), *(key for key, hook in hooks.items() if hook == self._after_load)]:
                del hooks[key]
        _holds().discard(self)
        if held_by(self.model) is self:
            del self.model.__dict__[_ATTRIBUTE]

    def follow(self, optimizer: Optimizer | None = None) -> None:
        """Hold the tensors that the model has by now under the names of those that were held, and mask them.

        Args:
            optimizer: the one about to step; if it moves no parameter of this model, a lost weight is no error.

        Raises:
            RuntimeError: With the name of a weight which the model now lacks, computes, or has in another shape.
        """
        if self._places is not None and self._places.have(self._tensors):
            if any(tensor.requires_grad for tensor in self._frozen):
                self._hook_gradients()
            return
        now = every_name_of(self.model)
        reasons = {name: why_lost(name, tensor, now) for name, tensor in self._tensors.items()}
        if lost := {name: reason for name, reason in reasons.items() if reason}:
            if optimizer is None or not _moved_by(optimizer).isdisjoint(map(id, now.values())):
                raise RuntimeError(explain(lost, class_name(self.model)))
            return
        new = {name: now[name] for name, tensor in self._tensors.items() if now[name] is not tensor}
        self._tensors.update(new)
        self._hook_gradients()
        self._look_up()
        if new:
            self._clean.clear()
            revived = sum(self._mask_of[name].take_(tensor) for name, tensor in new.items())
            _tell(f"{len(new)} held weights are new tensors now, '{next(iter(new))}' first, and held again", revived)

    def update(self, masks: Mapping[str, Tensor]) -> None:
        """Hold the same weights to other masks from now on (after a prune). Raises: as `follow`."""
        self.follow()
        weights = self.weights
        check_shapes(masks, weights, "mask")
        for name, mask in masks.items():
            self._masks[name].put(mask, weights[name])
        self._clean.clear()
        self.zero_()

    def zero_(self, model: nn.Module | None = None) -> None:
        """Zero the pruned weights of the held model, or of another with the same names (an average of its weights)."""
        weights = self._tensors if model is None else every_name_of(model)
        for name, mask in self._mask_of.items():
            mask.clear_(weights[name])

    def masked(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A state_dict of the model with its pruned weights at 0; the tensors of `state` stay as they are."""
        masks = {key: self._mask_of.get(clean_name(key)) for key in state}
        return {key: value if (mask := masks[key]) is None else value * mask.on(value) for key, value in state.items()}

    def prepare_(self, optimizer: Optimizer) -> None:
        """Before a step: follow the weights and, once after a prune, zero the optimizer's statistics of pruned weights.

        LBFGS starts afresh then: its directions are of another function, and lead out of the mask.
        """
        self.follow(optimizer)
        if optimizer in self._clean:
            return
        self._clean.add(optimizer)
        for mask, weight in self._moved_by(optimizer):
            if isinstance(optimizer, torch.optim.LBFGS):
                optimizer.state.clear()
            for value in optimizer.state.get(weight, {}).values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    mask.zero_(value)

    def guard_(self, optimizer: Optimizer) -> None:
        """After a step: zero the pruned weights that `optimizer` moves."""
        for mask, weight in self._moved_by(optimizer):
            mask.follow(weight)
            mask.zero_(weight)
            self.trained = True

    def _moved_by(self, optimizer: Optimizer) -> Iterator[tuple[Mask, nn.Parameter]]:
        """Mask and weight of each held weight that `optimizer` moves; a tied one once."""
        moved = _moved_by(optimizer)
        for name, tensor in self._tensors.items():
            if id(tensor) in moved:
                moved.discard(id(tensor))
                yield self._mask_of[name], tensor

    def _after_load(self, model: nn.Module, keys: object) -> None:
        hooks = [hook for module in model.modules() for hook in self._load_hooks(module).values()]
        if revived := sum(hook.revived for hook in hooks):
            _tell("a state was loaded into a held model", revived)
        for hook in hooks:
            hook.revived = 0
        self.follow()  # the tensors are others after load_state_dict(assign=True)

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


def held_by(model: nn.Module) -> Hold | None:
    """The hold on this model, if any."""
    return model.__dict__.get(_ATTRIBUTE)


@cache
def _holds() -> "weakref.WeakSet[Hold]":
    """The holds in force. From the first call on, each of them acts before and after every optimizer step."""
    holds: weakref.WeakSet[Hold] = weakref.WeakSet()

    def prepare(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        for hold in list(holds):
            hold.prepare_(optimizer)

    def guard(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        for hold in list(holds):
            hold.guard_(optimizer)

    register_optimizer_step_pre_hook(prepare)
    register_optimizer_step_post_hook(guard)
    return holds


def _refuse_held(weights: Mapping[str, Tensor]) -> None:
    """Two masks on one weight would leave what both leave, and neither search would know."""
    held = {id(tensor): (name, hold) for hold in _holds() for name, tensor in hold._tensors.items()}
    for name, weight in weights.items():
        if id(weight) in held:
            other, hold = held[id(weight)]
            raise ValueError(
                f"'{name}' is held to a mask already, as '{other}' of a {class_name(hold.model)} that shares it; "
                "remove that hold first (Hold.remove, or AWSPruner.detach if a pruner holds it)"
            )


def _moved_by(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def _tell(what: str, revived: int) -> None:
    if revived:
        logger.warning("%s: %s of its pruned weights were not 0, and are 0 again", what, f"{revived:,}")
    else:
        logger.info(what)
