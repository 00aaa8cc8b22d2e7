"""A deep perceptron for the handwritten digits: the network of the demo, so small that one can watch its training."""

import torch
from torch import nn

from ..random_states import torch_aside


def fresh_perceptron(seed: int, depth: int = 8, width: int = 128) -> nn.Module:
    """A perceptron 64 -> depth x width -> 10 with BatchNorm, freshly initialized from `seed`."""
    with torch_aside():
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in in [64] + [width] * (depth - 1):
            layers += [nn.Linear(fan_in, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(width, 10))
