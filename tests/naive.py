"""Algorithm 1 in the most literal form: the slow twin that the package is held against, bit for bit."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from aws_lottery.config import METHODS, PROTOCOLS, SignedMaskConfig

_MODULUS = 2**31 - 1


class NaiveAlgorithm1:
    """Holds plain parameters; multiplies weights by masks in forward and interpolates psi by autograd."""

    def __init__(self, model: nn.Module, config: SignedMaskConfig, prunable: list[str], psi: list[str]):
        self.model, self.config, self.psi = model, config, psi
        self.parameters = dict(model.named_parameters())
        self.masks = {name: torch.ones_like(self.parameters[name]) for name in prunable}
        self.psi_init = {name: self.parameters[name].detach().clone() for name in psi}
        if PROTOCOLS[config.protocol].unit_psi_init:
            self.psi_init = {
                name: torch.zeros_like(value) if name.endswith(".bias") else torch.ones_like(value)
                for name, value in self.psi_init.items()
            }
        self.interpolating = False
        self.state = int(torch.randint(1, _MODULUS, (), generator=torch.Generator().manual_seed(config.seed)))

    def __call__(self, x: Tensor) -> Tensor:
        effective = dict(self.parameters)
        for name, mask in self.masks.items():
            effective[name] = self.parameters[name] * mask
        if self.interpolating and self.model.training:
            self.state = self.state * 48271 % _MODULUS
            alpha = torch.tensor(self.state, dtype=torch.float32) / _MODULUS
            for name in self.psi:
                effective[name] = torch.lerp(self.psi_init[name], self.parameters[name], alpha)
        return functional_call(self.model, effective, (x,))

    def search(self, train: Callable[["NaiveAlgorithm1", int], None]) -> dict[str, Tensor]:
        """Returns the effective parameters theta * m at the end."""
        method, protocol = METHODS[self.config.method], PROTOCOLS[self.config.protocol]
        snapshots = {"init": self._copy()}
        self.interpolating = method.interpolate_norm and protocol.interpolate_warmup
        train(self, 0)
        snapshots["warmup"] = self._copy()
        self.interpolating = method.interpolate_norm
        for t in range(1, self.config.rounds + 1):
            if not protocol.prune_first:
                train(self, t)
            self.prune()
            if method.rewind_to and (protocol.prune_first or t < self.config.rounds):
                self.model.load_state_dict(snapshots[method.rewind_to])
            if protocol.prune_first:
                train(self, t)
        return {name: value.detach() * self.masks.get(name, torch.ones(())) for name, value in self.parameters.items()}

    def prune(self) -> None:
        alive = sorted(
            (abs(float(weight)), name, index)
            for name, mask in self.masks.items()
            for index, (weight, kept) in enumerate(
                zip(self.parameters[name].flatten().tolist(), mask.flatten().tolist(), strict=True)
            )
            if kept
        )
        drop = int(self.config.prune_rate * len(alive) + 1e-9)
        if PROTOCOLS[self.config.protocol].truncate_survivors:
            drop = len(alive) - int((1 - self.config.prune_rate) * len(alive))
            while 0 < drop < len(alive) and alive[drop - 1][0] == alive[drop][0]:  # what ties with the first to stay
                drop -= 1
        for _, name, index in alive[:drop]:
            self.masks[name].view(-1)[index] = 0

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}
