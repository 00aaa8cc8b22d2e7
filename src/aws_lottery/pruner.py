"""`AWSPruner`: Algorithm 1 around anybody's training loop, for all four methods."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from . import interpolation, signs
from .config import METHODS, PROTOCOLS, SignedMaskConfig
from .holding import Hold, held_by
from .mask import SignedMask
from .partition import bare_model, partition


@dataclass(frozen=True)
class Stage:
    """What to train next: index 0 is the warm-up, 1 to `rounds` are the rounds of Algorithm 1."""

    index: int
    rounds: int
    epochs: int
    remaining: float  # share of the prunable weights left while this stage trains


class AWSPruner:
    """Finds a signed mask: train what `rounds()` yields, then take `signed_mask()`.

    The model is trained in place by the caller's own loop. It stays an ordinary module, with the same state_dict
    keys; deep copies and pickles of it are held and interpolated as well. Call `detach` when done.
    """

    def __init__(self, model: nn.Module, config: SignedMaskConfig | None = None):
        """Take a freshly initialized `model`; what its normalization parameters are now is psi_init.

        Args:
            model: any module; DDP or torch.compile around it is seen through.
            config: None means the default search.
        Raises: ValueError if nothing is prunable, or if a pruner or a mask holds the model already.
        """
        self.model = bare_model(model)
        config = config or SignedMaskConfig()
        self.config = replace(config, architecture=config.architecture or type(self.model).__name__)
        self.partition = partition(self.model, self.config)
        parameters = dict(self.model.named_parameters())
        self._hold = Hold(
            self.model,
            {name: torch.ones_like(parameters[name], dtype=torch.uint8) for name in self.partition.prunable},
        )
        self._alpha = interpolation.Alpha(enabled=False)
        if METHODS[self.config.method].interpolate_norm:
            norms = [self.model.get_submodule(name) for name in self.partition.norms]
            self._alpha = interpolation.attach(self.model, norms, self.config.seed)
            self._alpha.enabled = False
        self._rewind_point: dict[str, Tensor] | None = None
        self._started = False

    @property
    def masks(self) -> dict[str, Tensor]:
        """Name -> uint8, 1 where the weight is left: the mask in force."""
        return dict(self._hold.masks)

    @property
    def remaining(self) -> float:
        """Share of the prunable weights that are left."""
        return signs.remaining(self._hold.masks)

    def rounds(self) -> Iterator[Stage]:
        """Algorithm 1: yields the warm-up, then each round, and between them prunes and rewinds.

        A stage is done when the loop asks for the next. With the `paper` protocol a round trains and then prunes;
        with `released-code` it prunes and then trains. Either way there are `config.rounds` prunes, and the last
        of them is not followed by a rewind: the model keeps its trained sparse weights.
        """
        if self._started:
            raise RuntimeError("rounds() runs once for each pruner; detach this one and make a new one to search again")
        self._started = True
        method, protocol = METHODS[self.config.method], PROTOCOLS[self.config.protocol]
        rounds = self.config.rounds
        assert rounds is not None  # resolved by the configuration
        self._mark("init")
        self._alpha.enabled = method.interpolate_norm and protocol.interpolate_warmup
        yield Stage(0, rounds, self.config.warmup_epochs, self.remaining)
        self._mark("warmup")
        self._alpha.enabled = method.interpolate_norm
        for index in range(1, rounds + 1):
            if protocol.prune_first:
                self._prune()
                self._rewind()
            yield Stage(index, rounds, self.config.epochs_per_round, self.remaining)
            if not protocol.prune_first:
                self._prune()
                if index < rounds:
                    self._rewind()
        self._alpha.enabled = False

    def signed_mask(self) -> SignedMask:
        """sign0(theta * m) of the model as it is now (Algorithm 1, line 11); after `rounds()`, the result."""
        return SignedMask.from_model(self.model, self.config, self._hold.masks)

    def zero_pruned_(self, model: nn.Module) -> None:
        """Zero what is pruned in another model of the same names; for a running average of the weights, which would
        else carry pruned weights over from before the last prune."""
        self._hold.zero_(bare_model(model))

    def detach(self) -> None:
        """Remove all that was attached; the model keeps its weights, and pruned ones may grow again."""
        detach(self.model)

    def _prune(self) -> None:
        """Algorithm 1, line 8."""
        self._hold.update(signs.prune(self._hold.weights, self._hold.masks, self.config.prune_rate))

    def _mark(self, point: str) -> None:
        if METHODS[self.config.method].rewind_to == point:
            self._rewind_point = {name: value.clone() for name, value in self.model.state_dict().items()}

    def _rewind(self) -> None:
        if self._rewind_point is not None:
            self.model.load_state_dict(self._rewind_point)
            self._hold.zero_()


def detach(model: nn.Module) -> None:
    """Make an ordinary model again of one that a pruner or a mask holds, or of a copy of such a one."""
    model = bare_model(model)
    if hold := held_by(model):
        hold.remove()
    interpolation.detach(model)
