"""The gradients that a pruning criterion may ask for."""

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from .hold import Hold


class MeanGradients:
    """The mean gradient of each weight that `hold` holds, over the optimizer steps since the last `take`.

    It reads the gradients after each step of any torch optimizer, so they are what the optimizer used: averaged over
    processes, unscaled and clipped. It stops once nothing refers to it.
    """

    def __init__(self, hold: Hold):
        self.hold = hold
        self.sums: dict[str, Tensor] = {}
        self.steps: dict[str, int] = {}  # of each weight: several optimizers may share the model
        this = weakref.ref(self)  # the hook is global, and would keep the model alive

        def look(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
            if (gradients := this()) is not None:
                gradients._add(optimizer)

        weakref.finalize(self, register_optimizer_step_post_hook(look).remove)

    def take(self) -> dict[str, Tensor]:
        """Name -> mean gradient, shaped like the weight; 0 where a weight had none. Starts anew.

        Raises: RuntimeError if no optimizer moved any of the weights.
        """
        if not self.sums:
            raise RuntimeError(
                "the pruning criterion needs gradients, and no optimizer step was seen since the last prune: train "
                "with a torch optimizer, at least one step a stage, or take a criterion that needs no gradient"
            )
        means = {
            name: self.sums[name] / self.steps[name] if name in self.sums else torch.zeros_like(weight)
            for name, weight in self.hold.weights.items()
        }
        self.sums, self.steps = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "steps": dict(self.steps)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sums = {name: total.to(self.hold.weights[name], copy=True) for name, total in state["sums"].items()}
        self.steps = dict(state["steps"])

    @torch.no_grad()
    def _add(self, optimizer: Optimizer) -> None:
        moved = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, weight in self.hold.weights.items():
            if id(weight) in moved and weight.grad is not None:
                if name not in self.sums:
                    self.sums[name], self.steps[name] = torch.zeros_like(weight), 0
                self.sums[name] += weight.grad
                self.steps[name] += 1
