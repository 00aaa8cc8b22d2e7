"""Ways of training k networks of one architecture, for together.py: one by one, by torch.func, or as one network."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from aws_lottery.joined import JOINED, Join, joined, joined_norm
from aws_lottery.models import fresh_network
from aws_lottery.models.cifar_resnet import BasicBlock
from aws_lottery.models.perceptron import fresh_perceptron

BATCH, IMAGES, REMAINING = 64, 1024, 0.1
NETWORKS: dict[str, tuple[Callable[[int], nn.Module], tuple[int, ...]]] = {  # seed -> network, shape of an image
    "perceptron": (fresh_perceptron, (1, 8, 8)),
    "resnet8": (partial(fresh_network, "resnet8", 10), (3, 16, 16)),
    "resnet20": (partial(fresh_network, "resnet20", 10), (3, 16, 16)),
}


class JoinedBlock(nn.Module):
    """A BasicBlock of a CifarResNet, whose shortcut pads the channels of each network by themselves."""

    def __init__(self, block: BasicBlock, k: int):
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = block.conv1, block.bn1, block.conv2, block.bn2
        self.k, self.stride, self.widen = k, block.stride, block.widen

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride].unflatten(1, (self.k, -1))
        return torch.relu(out + F.pad(shortcut, (0, 0, 0, 0, 0, self.widen)).flatten(1, 2))


def joined_convolution(layer: nn.Conv2d, k: int) -> nn.Module:
    """With a group of channels for each network."""
    channels = k * layer.in_channels, k * layer.out_channels
    geometry: Any = (layer.kernel_size, layer.stride, layer.padding)
    return nn.Conv2d(*channels, *geometry, groups=k, bias=layer.bias is not None)


KINDS: Mapping[type[nn.Module], Join] = {
    **JOINED,
    nn.Conv2d: joined_convolution,
    nn.BatchNorm2d: joined_norm,
    BasicBlock: JoinedBlock,
}


# Ways of training k networks: `backward` leaves gradients in `parameters`, name -> tensor of all k.

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]  # torch.compile, or nothing


class OneByOne:
    """The first of the networks alone, as it is."""

    def __init__(self, networks: Sequence[nn.Module], wrap: Wrapper):
        self.network = networks[0]
        self.parameters, self.loss = dict(self.network.named_parameters()), wrap(self._loss)
        self.state = self.network.state_dict()

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.network(x[0]), y[0])

    def backward(self, x: Tensor, y: Tensor) -> None:
        self.loss(x, y).backward()


class Grouped(OneByOne):
    """Batched matrix products, a convolution with k groups, BatchNorm over the channels of all."""

    def __init__(self, networks: Sequence[nn.Module], wrap: Wrapper):
        super().__init__([joined(networks, KINDS)], wrap)

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        side_by_side = x.transpose(0, 1).flatten(1, 2)  # (batch, k * channels, height, width)
        logits = self.network(side_by_side).view(len(y), -1, BATCH)
        return F.cross_entropy(logits, y, reduction="sum") / BATCH


class Vmapped:
    """torch.func: the gradient of one network's loss, mapped over stacked parameters and buffers."""

    def __init__(self, networks: Sequence[nn.Module], wrap: Wrapper):
        self.parameters, self.buffers = stack_module_state([*networks])
        self.state = {**self.parameters, **self.buffers}
        self.network = copy.deepcopy(networks[0]).to("meta")
        self.gradients = wrap(vmap(grad(self._loss)))

    def _loss(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(self.network, (parameters, buffers), x), y)

    def backward(self, x: Tensor, y: Tensor) -> None:
        detached = {name: parameter.detach() for name, parameter in self.parameters.items()}
        for name, gradient in self.gradients(detached, self.buffers, x, y).items():
            self.parameters[name].grad = gradient


@dataclass(frozen=True)
class Way:
    build: type[OneByOne | Vmapped]
    compiled: bool = False
    fused: bool = True  # SGD


PLAIN = "one after the other"
WAYS = {
    PLAIN: Way(OneByOne, fused=False),
    "fused SGD": Way(OneByOne),
    "compiled": Way(OneByOne, compiled=True),
    "vmap": Way(Vmapped),
    "vmap, compiled": Way(Vmapped, compiled=True),
    "grouped": Way(Grouped),
    "grouped, compiled": Way(Grouped, compiled=True),
}


class Data:
    """Noise with labels, for k networks that each take it in an order of their own."""

    def __init__(self, image: tuple[int, ...], k: int, device: str, dtype: torch.dtype):
        generator = torch.Generator().manual_seed(k)
        self.images = torch.randn(IMAGES, *image, generator=generator).to(device, dtype)
        self.labels = torch.randint(10, (IMAGES,), generator=generator).to(device)
        orders = torch.stack([torch.randperm(IMAGES, generator=generator) for _ in range(k)])
        self.orders = orders.to(device).split(BATCH, dim=1)

    def batches(self, networks: slice) -> Iterator[tuple[Tensor, Tensor]]:
        """Without end: images (k, batch, ...) and labels (k, batch) for these networks."""
        while True:
            for order in self.orders:
                yield self.images[order[networks]], self.labels[order[networks]]


class Trainer:
    """Networks in training, one way; the masks are those of their seeds."""

    def __init__(self, way: Way, networks: Sequence[nn.Module], data: Data, *, first: int = 0, mode: str = "default"):
        """Args:
        first: the seed of the first network.
        """
        self.k = 1 if way.build is OneByOne else len(networks)
        networks = networks[: self.k]
        wrap: Wrapper = partial(torch.compile, dynamic=False, mode=mode) if way.compiled else lambda function: function
        masks = [masks_of(network, first + index) for index, network in enumerate(networks)]
        self.way, self.batches = way.build(networks, wrap), data.batches(slice(first, first + self.k))
        parameters = self.way.parameters
        self.masks = {name: torch.stack([mask[name] for mask in masks]).view_as(parameters[name]) for name in masks[0]}
        fused = True if way.fused else None
        self.optimizer = torch.optim.SGD(parameters.values(), 0.1, momentum=0.9, weight_decay=5e-4, fused=fused)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.way.backward(*next(self.batches))
            for name, mask in self.masks.items():
                gradient = self.way.parameters[name].grad
                assert gradient is not None
                gradient.mul_(mask)
            self.optimizer.step()
            self.optimizer.zero_grad()


def masks_of(network: nn.Module, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.rand(weight.shape, generator=generator) < REMAINING).to(weight.device, weight.dtype)
        for name, weight in network.named_parameters()
        if weight.ndim > 1
    }


def largest_difference(
    way: Way, fresh: Callable[[int], nn.Module], image: tuple[int, ...], k: int, steps: int
) -> float:
    """Between any tensor of a network that is trained together with others and of the same one trained by itself.

    In float64, so that what rounding does to so many steps stays small beside any mistake.
    """
    networks = [fresh(seed).double() for seed in range(k)]
    data = Data(image, k, "cpu", torch.float64)
    together = Trainer(way, copy.deepcopy(networks), data)
    together.train(steps)
    difference = 0.0
    for index, network in enumerate(networks):
        alone = Trainer(WAYS[PLAIN], [network], data, first=index)
        alone.train(steps)
        for name, tensor in alone.way.state.items():
            if tensor.is_floating_point():
                other = together.way.state[name].reshape(k, -1)[index]
                difference = max(difference, float((tensor.flatten() - other).abs().max().detach()))
    return difference
