"""`GemMiner`: Gem-Miner ("Rare Gems", Sreenivasan et al., NeurIPS 2022, Algorithm 1), the comparison of Figure 4.

Weights w stay at their initialization. Each prunable one has a score p in [0, 1], and the network runs with
w * round(p); the gradient passes the rounding as if it were not there. After each step p is projected to [0, 1]. A
round trains the scores, then freezes the lowest of those still live at 0, for ever. docs/notes/gem-miner.md has the
choices.

While a GemMiner holds a model, the score *is* the parameter, under the weight's name, and w a buffer beside it. So any
optimizer of model.parameters() trains scores, Hold keeps the frozen ones at 0, and pruning by magnitude is freezing.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from .config import METHODS, SignedMaskConfig
from .mask import SignedMask
from .parameters.hold import Hold
from .parameters.unwrap import modules_of, parameters_of, state_of
from .pruner import AWSPruner
from .sharding import is_sharded_model
from .starting import MaskSource

_WEIGHT = "_aws_weight_"  # prefix of the buffers that hold w

# these use the weights of the layers inside them without calling those
_OPAQUE = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


class GemMiner(AWSPruner):
    """Finds the signed mask of one initialization, by scores; to be used as AWSPruner is, with the same loop.

    The parameters without a score (normalization, biases, the classifier) are frozen while it holds the model. Until
    `detach`, the model's state_dict has scores under the names of weights.

    Example:
        >>> from torch import nn
        >>> from aws_lottery import GemMiner, SignedMaskConfig
        >>> pruner = GemMiner(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)), SignedMaskConfig(method="gm", rounds=2))
        >>> for stage in pruner.rounds():
        ...     pass  # train pruner.model for stage.epochs
        >>> mask = pruner.signed_mask()
    """

    _scores = True

    def __init__(
        self,
        model: nn.Module,
        config: SignedMaskConfig | None = None,
        *,
        mask: MaskSource | None = None,
        psi_init: Mapping[str, Tensor] | None = None,
    ):
        """Take a freshly initialized `model`; its weights are w, and stay.

        Args:
            model: any module, also inside DDP or torch.compile.
            config: of method "gm"; its seed is that of the scores. None: the default search by that method.
            mask: as AWSPruner takes it: the scores of what it has a 0 for are frozen at 0 from the start.
            psi_init: not used; nothing is interpolated.

        Raises:
            ValueError: As AWSPruner does, for weights that are used outside of their layer, and for a sharded model.
        """
        super().__init__(model, config or SignedMaskConfig(method="gm"), mask=mask, psi_init=psi_init)

    def signed_mask(self) -> SignedMask:
        """The signs of w, 0 where a weight is frozen or its score rounds to 0; so `remaining` may be under the target.

        On this initialization, |w| * s is what the scores found; nothing says that it works on another (Section 4).
        """
        return self._with_history(SignedMask.from_model(self.sparse_copy(), self.config, self.masks))

    def sparse_state(self) -> dict[str, Tensor]:
        """Name -> parameter, as |w| * s with the sign of w, or buffer, of a copy."""
        return state_of(self.sparse_copy())

    def _hold_model(self, masks: dict[str, Tensor]) -> Hold:
        return ScoreHold(self.model, masks, self.config.seed)

    def state_dict(self) -> dict[str, Any]:
        """As AWSPruner's, with w."""
        return {**super().state_dict(), "weights": _weights(self.model)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As AWSPruner's."""
        super().load_state_dict(state)
        for name, buffer in _weights(self.model).items():
            buffer.copy_(state["weights"][name])


def pruner_for(
    model: nn.Module,
    config: SignedMaskConfig,
    *,
    mask: MaskSource | None = None,
    psi_init: Mapping[str, Tensor] | None = None,
) -> AWSPruner:
    """The pruner of the method that `config` names: GemMiner for one that trains scores, else AWSPruner.

    Args:
        model: freshly initialized, or with the weights to start from where there is a `mask`.
        config: of the search.
        mask: as AWSPruner takes it.
        psi_init: likewise.

    Returns:
        The pruner, which holds the model.

    Raises:
        ValueError: As AWSPruner's and GemMiner's.

    Example:
        >>> from torch import nn
        >>> from aws_lottery import SignedMaskConfig, pruner_for
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
        >>> type(pruner_for(model, SignedMaskConfig(method="gm"))).__name__
        'GemMiner'
    """
    return (GemMiner if METHODS[config.method].scores else AWSPruner)(model, config, mask=mask, psi_init=psi_init)


class ScoreHold(Hold):
    """Puts scores in the place of weights; those whose mask is 0 are frozen at 0."""

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor], seed: int):
        """Scores start uniform on [0, 1], drawn from `seed`; every process must use the same."""
        if is_sharded_model(model):
            raise ValueError(
                "Gem-Miner (method 'gm') takes no sharded model; train it whole, by DistributedDataParallel, or take "
                "another method"
            )
        scored = _places(model, masks)
        super().__init__(model, masks)
        self.frozen = [name for name, p in parameters_of(model).items() if p.requires_grad and name not in masks]
        for name in self.frozen:
            parameters_of(model)[name].requires_grad_(False)
        for module, leaves in scored.items():
            module.forward = ScoredForward(module, leaves)
        generator = torch.Generator().manual_seed(seed)
        for weight in self.weights.values():
            weight.data.copy_(torch.rand(weight.shape, generator=generator))
        self.zero_()

    def __getstate__(self) -> dict:
        return {**super().__getstate__(), "frozen": self.frozen}

    @torch.no_grad()
    def guard_(self, optimizer: Optimizer) -> None:
        super().guard_(optimizer)
        for score in self.weights.values():
            score.clamp_(0, 1)

    @torch.no_grad()
    def remove(self) -> None:
        """Turn the model into an ordinary one, whose weights are w * round(p)."""
        super().remove()
        forwards = [module.__dict__.get("forward") for module in self.model.modules()]
        scored = [forward for forward in forwards if isinstance(forward, ScoredForward)]
        weights = {id(score): weight for forward in scored for score, weight in forward.pairs()}  # tied ones once
        for score in self.weights.values():
            if id(score) in weights:
                score.copy_(effective(weights[id(score)], score))
        for forward in scored:
            forward.restore()
        for name in self.frozen:
            parameters_of(self.model)[name].requires_grad_()
        self.frozen = []


class ScoredForward:
    """The forward of a layer, run with w * round(p) in the place of the scores p."""

    def __init__(self, module: nn.Module, leaves: Iterable[str]):
        self.module, self.leaves = module, tuple(leaves)
        self.replaced = module.__dict__.get("forward")  # a forward that was set on the instance before
        for leaf in self.leaves:
            module.register_buffer(_WEIGHT + leaf, module.get_parameter(leaf).detach().clone(), persistent=False)

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Score and weight of each."""
        return [(self.module.get_parameter(leaf), self.module.get_buffer(_WEIGHT + leaf)) for leaf in self.leaves]

    def __call__(self, *args, **kwargs):
        parameters: dict[str, Any] = self.module._parameters
        buffers: dict[str, Any] = self.module._buffers
        scores = {leaf: parameters[leaf] for leaf in self.leaves}
        try:
            parameters.update({leaf: effective(buffers[_WEIGHT + leaf], p) for leaf, p in scores.items()})
            if self.replaced is not None:
                return self.replaced(*args, **kwargs)
            return type(self.module).forward(self.module, *args, **kwargs)
        finally:
            parameters.update(scores)

    def restore(self) -> None:
        del self.module.forward
        if self.replaced is not None:
            self.module.forward = self.replaced
        for leaf in self.leaves:
            delattr(self.module, _WEIGHT + leaf)


def effective(weight: Tensor, score: Tensor) -> Tensor:
    """w * round(p), exactly, with the straight-through gradient: w to each score."""
    return weight * (score.detach().round() + (score - score.detach()))


def _places(model: nn.Module, names: Iterable[str]) -> dict[nn.Module, list[str]]:
    """Module -> its parameters among `names`; a tied one has several modules."""
    parameters = parameters_of(model)
    wanted = {id(parameters[name]) for name in names}
    places: dict[nn.Module, list[str]] = {}
    for name, module in modules_of(model).items():
        leaves = [leaf for leaf, p in module._parameters.items() if p is not None and id(p) in wanted]
        if leaves:
            places[module] = leaves
        if isinstance(module, _OPAQUE) and wanted & {id(p) for p in module.parameters()}:
            raise ValueError(
                f"'{name}' ({type(module).__name__}) uses weights outside of the layers that own them, where scores "
                f"can't stand in for them; leave it out: exclude=('{name}',)"
            )
    return places


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """w by buffer name."""
    return {name: value for name, value in model.named_buffers() if name.rpartition(".")[2].startswith(_WEIGHT)}
