"""`SearchedModel`: the masks, the interpolation and the rewind point of a model in a search; `AWSPruner` says when."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import replace
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
from .parameters.unwrap import class_name, clean_name, modules_of, parameters_of, state_of, unwrap
from .sharding import is_sharded
from .starting import history_of, starting_masks, warn_of_trained_norm
from .summaries import share_text

logger = logging.getLogger(__name__)


class SearchedModel:
    """A model with its partition, its masks, its interpolation, and the weights that a method rewinds to."""

    _scores = False  # for the methods that train weights; True for those that train scores

    def __init__(
        self,
        model: nn.Module,
        config: SignedMaskConfig,
        mask: SignedMask | None,
        psi_init: Mapping[str, Tensor] | None,
    ):
        if not isinstance(config, SignedMaskConfig):
            raise TypeError(f"config must be a SignedMaskConfig, got {type(config).__name__}")
        if METHODS[config.method].scores != self._scores:
            raise ValueError(
                f"method '{config.method}' is not for {type(self).__name__}; pruner_for(model, config) makes its pruner"
            )
        self.model = unwrap(model)
        signs.check_initialized(parameters_of(self.model))
        self.config = replace(config, architecture=config.architecture or class_name(self.model))
        self.partition = partition(self.model, self.config)
        self._announce()
        parameters = parameters_of(self.model)
        signs.check_floating({name: parameters[name] for name in self.partition.prunable})
        masks = {name: torch.ones_like(parameters[name], dtype=torch.uint8) for name in self.partition.prunable}
        self._history: tuple[Mapping[str, Any], ...] = ()
        if mask is not None:
            masks |= starting_masks(mask, self.model, self.partition.prunable)
            self.config, self._history = self.config.starting_at(signs.remaining(masks)), history_of(mask)
        self._hold = self._hold_model(masks)
        self._method, self._protocol = METHODS[self.config.method], PROTOCOLS[self.config.protocol]
        self._criterion = CRITERIA[self.config.criterion]
        self._gradients = MeanGradients(self._hold) if self._criterion.needs_gradient else None
        self._alpha = norm_interpolation.Alpha()
        if self._method.interpolate_norm:
            try:
                self._attach_interpolation(psi_init, fresh=mask is None)
            except ValueError:
                self.detach()
                raise
        self._rewind_point: dict[str, Tensor] | None = None
        self._thawed: set[str] = set()  # frozen at the start and trained later

    def _announce(self) -> None:
        """Log which weights are not pruned, and why, where a user might expect them to be."""
        classifier = self.partition.names_of(self.partition.classifier)
        if self.partition.classifier is not None:
            logger.info("'%s' is the classifier: it gets signs and is not pruned", classifier)
        if self.partition.doubt:
            logger.warning(
                "'%s' is taken for the classifier and not pruned, but %s; say which by classifier=, or set "
                "prune_classifier=True",
                classifier,
                self.partition.doubt,
            )
        if self.partition.frozen:
            logger.info(
                "frozen weights get signs and are not pruned (prune_frozen=False): %s", ", ".join(self.partition.frozen)
            )
        if self.partition.unknown:
            logger.warning(
                "not pruned, as their layers are of no known kind (their signs are taken): %s",
                ", ".join(self.partition.unknown),
            )

    def _attach_interpolation(self, psi_init: Mapping[str, Tensor] | None, *, fresh: bool) -> None:
        """Eq. 2, switched off until a stage asks for it."""
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
        if psi_init is not None:
            norm_interpolation.set_psi_init(self.model, psi_init)
        elif not fresh and not unit:
            warn_of_trained_norm(self.model)

    def __repr__(self) -> str:
        what = f"{type(self).__name__} of {self.config.architecture} ({self.config.method}, {self.config.protocol})"
        sizes = {part.name: part.size for part in self.partition.parts}
        prunable, total = sum(sizes[name] for name in self.partition.prunable), sum(sizes.values())
        text = f"{prunable:,} prunable weights of {total:,} parameters, sharded"  # all processes would have to count
        if not any(map(is_sharded, self.masks.values())):
            share = 1 - prunable * (1 - self.remaining) / total
            text = f"{share_text(self.remaining)} of {prunable:,} prunable weights remaining, "
            text += f"{share_text(share)} of all {total:,} parameters"
        return f"{what}: {text}\n{self.partition}"

    def print_prunable_parameters(self) -> None:
        """Print, with counts, which parameters are pruned, which only have their signs taken, and how many remain."""
        print(self)

    @property
    def masks(self) -> dict[str, Tensor]:
        """Name -> uint8, 1 where the weight is left: the mask in force."""
        return self._hold.masks

    @property
    def remaining(self) -> float:
        """Share of the prunable weights that are left."""
        return signs.remaining(self._hold.masks)

    def _warn_of_unfrozen(self) -> None:
        parameters = parameters_of(self.model)
        thawed = {n for n in self.partition.frozen if n in parameters and parameters[n].requires_grad} - self._thawed
        if thawed:
            self._thawed |= thawed
            logger.warning(
                "trained and not pruned, as they were frozen when the pruner took the model: %s; unfreeze them before, "
                "or set prune_frozen=True",
                ", ".join(sorted(thawed)),
            )

    def sparse_copy(self) -> nn.Module:
        """The model as it is now, as an ordinary module of its own.

        Returns:
            A deep copy that has theta * m for weights and is held by nothing.

        Raises:
            RuntimeError: If FSDP2 shards the model, which can't be copied then.
        """
        try:
            model = copy.deepcopy(self.model)
        except AssertionError as error:
            raise RuntimeError(
                f"this {class_name(self.model)} can't be copied ({error}); sparse_state() has its weights, and "
                "find_signed_mask writes them to a folder"
            ) from error
        detach(model)
        return model

    def rewound_copy(self) -> nn.Module | None:
        """A module of its own with theta_0 * m (IMP) or theta_warmup * m (WR), where the method's solution starts
        (Section 3.1); None if the method does not rewind, or before the point that it rewinds to."""
        if self._rewind_point is None:
            return None
        model = self.sparse_copy()
        model.load_state_dict(self._hold.masked(self._rewind_point))
        return model

    def sparse_state(self) -> dict[str, Tensor]:
        """Name -> parameter, as theta * m, or buffer: what `save_weights` takes. Tensors of the model itself."""
        return state_of(self.model)

    def rewound_state(self) -> dict[str, Tensor] | None:
        """As `sparse_state`, for the weights of `rewound_copy`; None as there."""
        if self._rewind_point is None:
            return None
        rewound = {clean_name(key): value for key, value in self._hold.masked(self._rewind_point).items()}
        return {name: rewound[name] for name in self.sparse_state()}

    def state_dict(self) -> dict[str, Any]:
        """The masks and the other state of a search, without the model's own state_dict."""
        return {
            "masks": self.masks,
            # copies: unlike masks, these tensors change in place
            "interpolation": {name: value.clone() for name, value in norm_interpolation.state(self.model).items()},
            "rewind_point": self._rewind_point,
            "gradients": self._gradients.state_dict() if self._gradients else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`, on the same model with its own state loaded."""
        self._hold.update(state["masks"])
        norm_interpolation.load_state(self.model, state["interpolation"])
        self._rewind_point = state["rewind_point"]
        if self._gradients:
            self._gradients.load_state_dict(state["gradients"])

    def zero_pruned_(self, model: nn.Module) -> None:
        """Zero the pruned weights in another model with the same names.

        It is for a running average of the weights, which otherwise keeps weights from before the last prune. A deep
        copy of the model, such as `AveragedModel` makes, is held to the current masks from then on.
        """
        if (copied := held_by(unwrap(model))) is not None:
            copied.update(self._hold.masks)
        self._hold.zero_(unwrap(model))

    def detach(self) -> None:
        """Remove everything that was attached to the model. It keeps its weights, and pruned weights may grow again."""
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
            with_ties=self._method.scores,
        )
        self._hold.update(masks)

    def _mark(self, point: str) -> None:
        if self._method.rewind_to == point:
            self._rewind_point = {name: value.clone() for name, value in self.model.state_dict().items()}

    def _rewind(self) -> None:
        if self._rewind_point is not None:
            self.model.load_state_dict(self._hold.masked(self._rewind_point))


def detach(model: nn.Module) -> None:
    """Remove what a pruner or a mask has attached to `model`, or to the model that it is a copy of.

    Args:
        model: an ordinary module afterwards, with its weights as they are.

    Example:
        >>> from torch import nn
        >>> from aws_lottery import AWSPruner, detach
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        >>> pruner = AWSPruner(model)
        >>> detach(model)  # as pruner.detach()
    """
    model = unwrap(model)
    if hold := held_by(model):
        hold.remove()
    norm_interpolation.detach(model)
