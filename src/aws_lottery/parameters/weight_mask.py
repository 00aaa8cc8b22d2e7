"""The mask of one weight, and the hook that masks what is loaded into a module."""

import torch
from torch import Tensor, nn

from ..sharding import as_laid_out, is_sharded, local


class Mask:
    """The mask of one weight. Hooks on the weight refer to it alone: a reference to the weight would never be freed."""

    def __init__(self, name: str, value: Tensor, like: Tensor):
        self.name = name
        self.put(value, like)

    def put(self, value: Tensor, like: Tensor) -> None:
        """Take a uint8 copy on the device, in the memory format and, if it is sharded, in the shards of `like`:
        multiplying across formats takes 1.8x as long."""
        self.value = torch.empty_like(like, dtype=torch.uint8, requires_grad=False).copy_(as_laid_out(value, like))

    @torch.no_grad()
    def zero_(self, tensor: Tensor) -> None:
        """Zero what is pruned in a tensor shaped like the weight; quick, for every step."""
        local(tensor).mul_(local(self.on(tensor)))

    @torch.no_grad()
    def clear_(self, tensor: Tensor) -> None:
        """As `zero_`, also where there are NaN and infinities under a 0 of the mask, which a product keeps."""
        local(tensor).masked_fill_(local(self.on(tensor)) == 0, 0)

    def zero_gradient(self, weight: Tensor) -> None:
        if weight.grad is not None:
            self.zero_(weight.grad)

    @torch.no_grad()
    def take_(self, weight: Tensor) -> int:
        """Mask a weight that comes from elsewhere; returns how many of its pruned ones, in this process, were not 0."""
        self.put(self.value, weight)
        before = int(torch.count_nonzero(local(weight)))
        self.clear_(weight)
        self.zero_gradient(weight)
        return before - int(torch.count_nonzero(local(weight)))

    def on(self, tensor: Tensor) -> Tensor:
        """The mask on the device of `tensor` and, if that is sharded, in its shards."""
        if is_sharded(tensor) != is_sharded(self.value):
            return as_laid_out(self.value, tensor)
        return self.value.to(tensor.device)

    def follow(self, weight: Tensor) -> None:
        """Stay on the device of the weight, for every step to come."""
        if self.value.device != weight.device:
            self.value = self.value.to(weight.device)


class LoadHook:
    """Masks what load_state_dict loads into one module.

    It refers to the masks of that module only, so that a copy of the module does not copy the model.
    """

    def __init__(self, masks: dict[str, Mask]):
        self.masks = masks  # by the module's own names
        self.revived = 0  # pruned weights that were not 0, in loads that were not reported yet

    def __call__(self, module: nn.Module, keys: object) -> None:
        for leaf, mask in self.masks.items():
            weight = module._parameters.get(leaf)
            if weight is not None and weight.shape == mask.value.shape:  # else the next step raises an error
                self.revived += mask.take_(weight)
