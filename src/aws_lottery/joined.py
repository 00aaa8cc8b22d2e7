"""k networks of one architecture as one network: its channels are those of the k networks, side by side.

whole = joined(networks)               # what (batch, k * channels, ...) images go through; its tensors are new
separate_(whole, networks)             # each takes its own part back

A tensor of the whole, seen as (k, ...), has those of the k networks, and the same name. The networks don't mix, so each
trains as by itself within rounding, for any loss that is the sum of theirs and any optimizer that is elementwise.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn


class JoinedFlatten(nn.Module):
    """(batch, k * channels, height, width) -> (1, k * features, batch), whose length is the batch for BatchNorm."""

    def __init__(self, layer: nn.Flatten, k: int):
        super().__init__()
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.k, -1)).flatten(2).permute(1, 2, 0).flatten(0, 1).unsqueeze(0)


class JoinedLinear(nn.Module):
    """(1, k * features in, batch), or (batch, k * features in), -> (1, k * features out, batch)."""

    def __init__(self, layer: nn.Linear, k: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(k, *layer.weight.shape))
        self.bias = nn.Parameter(torch.empty(k, layer.out_features)) if layer.bias is not None else None

    def forward(self, x: Tensor) -> Tensor:
        columns = (x.T if x.ndim == 2 else x[0]).unflatten(0, (len(self.weight), -1))  # (k, features in, batch)
        if self.bias is None:
            out = torch.bmm(self.weight, columns)
        else:
            out = torch.baddbmm(self.bias.unsqueeze(2), self.weight, columns)
        return out.flatten(0, 1).unsqueeze(0)


def joined_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, k: int) -> nn.Module:
    """BatchNorm over the channels of all."""
    return type(layer)(k * layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)


Join = Callable[[Any, int], nn.Module]  # a layer of one network, k -> that of all
JOINED: Mapping[type[nn.Module], Join] = MappingProxyType(
    {nn.Flatten: JoinedFlatten, nn.Linear: JoinedLinear, nn.BatchNorm1d: joined_norm}
)


def joined(networks: Sequence[nn.Module], kinds: Mapping[type[nn.Module], Join] = JOINED) -> nn.Module:
    """One network that does what all of them do. What is not of `kinds` has to act on each channel by itself.

    Args:
        networks: of one architecture, without hooks; they stay as they are.
        kinds: how layers are joined.
    """
    whole, example = copy.deepcopy(networks[0]), next(networks[0].parameters())
    for name, module in [*whole.named_modules()][::-1]:  # layers before the blocks that hold them
        if type(module) in kinds:
            whole.set_submodule(name, kinds[type(module)](module, len(networks)))
    whole.to(example.device, example.dtype)
    states = [network.state_dict() for network in networks]
    for name, tensor in whole.state_dict().items():
        values = torch.stack([state[name] for state in states])
        tensor.copy_(values.view(tensor.shape) if tensor.shape else values[0])  # a count of batches: the first one's
    return whole


def separate_(whole: nn.Module, networks: Sequence[nn.Module]) -> None:
    """Copy what each of the networks has become in `whole` back into it."""
    for name, tensor in whole.state_dict().items():
        parts = [network.state_dict()[name] for network in networks]
        more = None if tensor.shape else tensor - parts[0]  # batches, since the count of the first was taken
        for index, own in enumerate(parts):
            own.copy_(tensor.view(len(networks), *own.shape)[index] if more is None else own + more)
