"""`AWSPruner`: Algorithm 1 around anybody's training loop, for the methods that train weights."""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from . import signs
from .config import METHODS, PROTOCOLS, SignedMaskConfig
from .criteria import CRITERIA
from .mask import SignedMask
from .parameters import norm_interpolation
from .parameters.gradients import MeanGradients
from .parameters.hold import Hold, held_by
from .parameters.partition import partition
from .parameters.unwrap import modules_of, parameters_of, unwrap

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """What to train next: index 0 is the warm-up, 1 to `rounds` are the rounds of Algorithm 1.

    With the `paper` protocol nothing is trained after the last prune, as Algorithm 1 has it: the last `remaining` is
    that before it. A solution as the paper reports it is trained once more, from what the search left.
    """

    index: int
    rounds: int
    epochs: int
    remaining: float  # share of the prunable weights left while this stage trains


class AWSPruner:
    """Finds a signed mask: train what `rounds()` yields, then take `signed_mask()`.

    The model is trained in place by the caller's own loop. It stays an ordinary module, with the same state_dict
    keys; deep copies and pickles of it are held and interpolated as well. Call `detach` when done.
    """

    _scores = False  # which methods it is for

    def __init__(self, model: nn.Module, config: SignedMaskConfig | None = None):
        """Take a freshly initialized `model`; what its normalization parameters are now is psi_init, unless the
        protocol says otherwise.

        Args:
            model: any module; DDP or torch.compile around it is seen through.
            config: None means the default search.
        Raises: ValueError if nothing is prunable, if a pruner or a mask holds the model already, or if the method is
            that of another pruner.
        """
        config = config or SignedMaskConfig()
        if METHODS[config.method].scores != self._scores:
            other = "AWSPruner" if self._scores else "GemMiner"
            raise ValueError(f"method '{config.method}' is not for {type(self).__name__}; use {other}, or pruner_for")
        self.model = unwrap(model)
        self.config = replace(config, architecture=config.architecture or type(self.model).__name__)
        self.partition = partition(self.model, self.config)
        logger.info("classifier, signed but not pruned: %s", self.partition.classifier)
        if self.partition.unknown:
            logger.warning(
                "not pruned, as their layers are of no known kind (their signs are taken): %s",
                ", ".join(self.partition.unknown),
            )
        parameters = parameters_of(self.model)
        self._hold = self._hold_model(
            {name: torch.ones_like(parameters[name], dtype=torch.uint8) for name in self.partition.prunable}
        )
        self._method, self._protocol = METHODS[self.config.method], PROTOCOLS[self.config.protocol]
        self._criterion = CRITERIA[self.config.criterion]
        self._gradients = MeanGradients(self._hold) if self._criterion.needs_gradient else None
        self._alpha = norm_interpolation.Alpha(enabled=False)
        if self._method.interpolate_norm:
            if not self.partition.norms:
                logger.warning(
                    "%s has no normalization layer with parameters, so nothing is interpolated: method '%s' does what "
                    "'lrr' does, and the paper promises nothing of the signs on another initialization",
                    self.config.architecture,
                    self.config.method,
                )
            modules = modules_of(self.model)
            norms = [modules[name] for name in self.partition.norms]
            unit = self._protocol.unit_psi_init
            self._alpha = norm_interpolation.attach(self.model, norms, self.config.seed, unit_psi_init=unit)
            self._alpha.enabled = False
        self._rewind_point: dict[str, Tensor] | None = None
        self._stage = 0  # the next to train, or under way
        self._running = self._resumed = False

    @property
    def masks(self) -> dict[str, Tensor]:
        """Name -> uint8, 1 where the weight is left: the mask in force."""
        return dict(self._hold.masks)

    @property
    def remaining(self) -> float:
        """Share of the prunable weights that are left."""
        return signs.remaining(self._hold.masks)

    def rounds(self, on_mask: Callable[[int, SignedMask], object] | None = None) -> Iterator[Stage]:
        """Algorithm 1: yields the warm-up, then each round, and between them prunes and rewinds.

        A stage is done when the loop asks for the next. With the `paper` protocol a round trains and then prunes;
        with `released-code` it prunes and then trains. Either way there are `config.rounds` prunes, and the last
        of them is not followed by a rewind: the model keeps its trained sparse weights. After `load_state_dict`, it
        goes on with the stage that was under way.

        Args:
            on_mask: called with the index and the signed mask s_t of each round that is done, before any rewind.
        Raises: RuntimeError if it ran before, after `detach`, or if a weight can't be held any more.
        """
        if self._running:
            raise RuntimeError("rounds() runs once for each pruner; detach this one and make a new one to search again")
        self._running = True
        prune_first, last = self._protocol.prune_first, self.config.rounds or 0
        for t in range(self._stage, last + 1):  # Algorithm 1, line 1; t = 0 is the warm-up, which comes before it
            if not self._resumed:
                if t == 0:
                    self._mark("init")
                elif prune_first:
                    self._prune()
                    self._rewind()
            yield self._stage_to_train(t)  # lines 2-7, with the schedule of the learning rate rewound (line 9)
            if t == 0:
                self._mark("warmup")
                continue
            if prune_first:
                self._hold.update(self.masks)  # follows weights that were replaced since the last step
            else:
                self._prune()  # line 8
            if on_mask is not None:
                on_mask(t, self.signed_mask())  # line 11, for each t
            if not prune_first and t < last:
                self._rewind()
        self._stage = last + 1
        self._alpha.enabled = False

    def _stage_to_train(self, t: int) -> Stage:
        """Raises: RuntimeError if the pruner no longer holds the model."""
        if held_by(self.model) is not self._hold:
            raise RuntimeError("this pruner was detached, so masks would not hold; make a new one to search again")
        self._stage, self._resumed = t, False
        self._alpha.enabled = self._method.interpolate_norm and (t > 0 or self._protocol.interpolate_warmup)
        epochs = self.config.epochs_per_round if t else self.config.warmup_epochs
        return Stage(t, self.config.rounds or 0, epochs, self.remaining)

    def signed_mask(self) -> SignedMask:
        """sign0(theta * m) of the model as it is now (Algorithm 1, line 11); after `rounds()`, the result."""
        return SignedMask.from_model(self.model, self.config, self._hold.masks)

    def sparse_copy(self) -> nn.Module:
        """The model as it is now, as an ordinary module of its own with theta * m for weights."""
        model = copy.deepcopy(self.model)
        detach(model)
        return model

    def rewound_copy(self) -> nn.Module | None:
        """A module of its own with theta_0 * m (IMP) or theta_warmup * m (WR), where the method's solution starts
        (Section 3.1); None if the method does not rewind, or has not come to that point."""
        if self._rewind_point is None:
            return None
        model = self.sparse_copy()
        model.load_state_dict(self._rewind_point)
        with torch.no_grad():
            for name, mask in self.masks.items():
                parameters_of(model)[name].mul_(mask)
        return model

    def state_dict(self) -> dict[str, Any]:
        """All that a search has to remember beside the model's own state_dict: tensors and plain values."""
        return {
            "config": self.config.to_dict(),
            "stage": self._stage,
            "begun": self._running,
            "masks": self.masks,
            "interpolation": norm_interpolation.state(self.model),
            "rewind_point": self._rewind_point,
            "gradients": self._gradients.state_dict() if self._gradients else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken: before `rounds`, on the same model with its own state loaded.

        Raises: ValueError if the state is of a search with another configuration; RuntimeError once rounds() runs.
        """
        if self._running:
            raise RuntimeError("load_state_dict comes before rounds()")
        theirs = SignedMaskConfig.from_dict(state["config"])
        if theirs != self.config:
            raise ValueError(f"the state is of another search: {theirs}; this pruner has {self.config}")
        self._hold.update(state["masks"])
        norm_interpolation.load_state(self.model, state["interpolation"])
        self._rewind_point = state["rewind_point"]
        if self._gradients:
            self._gradients.load_state_dict(state["gradients"])
        self._stage, self._resumed = state["stage"], state["begun"]

    def zero_pruned_(self, model: nn.Module) -> None:
        """Zero what is pruned in another model of the same names; for a running average of the weights, which would
        else carry pruned weights over from before the last prune."""
        self._hold.zero_(unwrap(model))

    def detach(self) -> None:
        """Remove all that was attached; the model keeps its weights, and pruned ones may grow again."""
        detach(self.model)

    def _hold_model(self, masks: dict[str, Tensor]) -> Hold:
        return Hold(self.model, masks)

    def _prune(self) -> None:
        """Algorithm 1, line 8."""
        self._hold.follow()
        masks = signs.prune(
            self._hold.weights,
            self._hold.masks,
            self.config.prune_rate,
            score=self._criterion.score,
            gradients=self._gradients.take() if self._gradients else {},
            truncate_survivors=self._protocol.truncate_survivors,
        )
        self._hold.update(masks)

    def _mark(self, point: str) -> None:
        if self._method.rewind_to == point:
            self._rewind_point = {name: value.clone() for name, value in self.model.state_dict().items()}

    def _rewind(self) -> None:
        if self._rewind_point is not None:
            self.model.load_state_dict(self._hold.masked(self._rewind_point))


def detach(model: nn.Module) -> None:
    """Make an ordinary model again of one that a pruner or a mask holds, or of a copy of such a one."""
    model = unwrap(model)
    if hold := held_by(model):
        hold.remove()
    norm_interpolation.detach(model)
