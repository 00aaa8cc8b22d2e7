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
from .mask_file.provenance import Provenance
from .parameters import norm_interpolation
from .parameters.gradients import MeanGradients
from .parameters.hold import Hold, held_by
from .parameters.partition import partition
from .parameters.unwrap import class_name, clean_name, modules_of, parameters_of, state_of, unwrap
from .sharding import is_sharded
from .starting import MaskSource, as_mask, history_of, starting_masks, warn_of_trained_norm

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """What to train next: index 0 is the warm-up, 1 to `rounds` are the rounds of Algorithm 1.

    With the `paper` protocol nothing is trained after the last prune, as Algorithm 1 has it: the last `remaining` is
    that before it, and the model that the search leaves is less accurate than what the last stage ended with. The
    solution that the paper reports is trained once more: `rounds(solution_epochs=...)` yields that as a stage with
    index `rounds` + 1.
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

    def __init__(
        self,
        model: nn.Module,
        config: SignedMaskConfig | None = None,
        *,
        mask: MaskSource | None = None,
        psi_init: Mapping[str, Tensor] | None = None,
    ):
        """Take a freshly initialized `model`; what its normalization parameters are now is psi_init, unless the
        protocol or `psi_init` says otherwise.

        Args:
            model: any module; DDP or torch.compile around it is seen through.
            config: None means the default search.
            mask: where the search starts, instead of at the dense network: a SignedMask, its folder, or its id on the
                Hub. What it has a 0 for is pruned from the warm-up on; `rounds` counts the prunes that follow, and
                `target_remaining` is still a share of all prunable weights. The weights of the model are taken as they
                are: `mask.apply_(model)` before starts at |theta_init| * s, weights of a round or of any sparse
                checkpoint (whose mask is `SignedMask.from_model(model)`) go on with what is trained. A method that
                rewinds goes back to them as they are now, or after this warm-up.
            psi_init: name -> normalization parameter of a fresh network (its state_dict will do), where those of
                `model` are trained.
        Raises: ValueError if nothing is prunable, if the model is on the meta device, if a pruner or a mask holds the
            model already, if the method is that of another pruner, or if the mask does not fit.
        """
        config = config or SignedMaskConfig()
        if METHODS[config.method].scores != self._scores:
            raise ValueError(
                f"method '{config.method}' is not for {type(self).__name__}; pruner_for(model, config) makes its pruner"
            )
        self.model = unwrap(model)
        signs.check_initialized(parameters_of(self.model))
        self.config = replace(config, architecture=config.architecture or class_name(self.model))
        self.partition = partition(self.model, self.config)
        classifier = self.partition.names_of(self.partition.classifier)
        logger.info("classifier, signed but not pruned: %s", classifier)
        if self.partition.doubt:
            logger.warning(
                "'%s' is taken for the classifier and not pruned, but %s; say which by classifier=, or set "
                "prune_classifier=True",
                classifier,
                self.partition.doubt,
            )
        if self.partition.frozen:
            logger.info("frozen, signed but not pruned (prune_frozen=False): %s", ", ".join(self.partition.frozen))
        if self.partition.unknown:
            logger.warning(
                "not pruned, as their layers are of no known kind (their signs are taken): %s",
                ", ".join(self.partition.unknown),
            )
        parameters = parameters_of(self.model)
        masks = {name: torch.ones_like(parameters[name], dtype=torch.uint8) for name in self.partition.prunable}
        self._history: tuple[Mapping[str, Any], ...] = ()
        if mask is not None:
            mask = as_mask(mask)
            masks |= starting_masks(mask, self.model, self.partition.prunable)
            self.config, self._history = self.config.starting_at(signs.remaining(masks)), history_of(mask)
        self._hold = self._hold_model(masks)
        self._method, self._protocol = METHODS[self.config.method], PROTOCOLS[self.config.protocol]
        self._criterion = CRITERIA[self.config.criterion]
        self._gradients = MeanGradients(self._hold) if self._criterion.needs_gradient else None
        self._alpha = norm_interpolation.Alpha()
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
            if psi_init is not None:
                norm_interpolation.set_psi_init(self.model, psi_init)
            elif mask is not None and not unit:
                warn_of_trained_norm(self.model)
        self._rewind_point: dict[str, Tensor] | None = None
        self._stage = 0  # the next to train, or under way
        self._running = self._under_way = False
        self._thawed: set[str] = set()  # frozen at the start and trained later
        self._found: SignedMask | None = None  # s_T, once its solution is being trained

    def __repr__(self) -> str:
        what = f"{type(self).__name__} of {self.config.architecture} ({self.config.method}, {self.config.protocol})"
        sizes = {part.name: part.size for part in self.partition.parts}
        held, total = sum(sizes[name] for name in self.partition.prunable), sum(sizes.values())
        left = f"{held:,} prunable weights of {total:,} parameters, sharded"  # counting would take all processes
        if not any(map(is_sharded, self.masks.values())):
            share = 1 - held * (1 - self.remaining) / total
            left = f"{self.remaining:.4g} of {held:,} prunable weights remaining, "
            left += f"{share:.4g} of all {total:,} parameters"
        return f"{what}: {left}\n{self.partition}"

    def print_prunable_parameters(self) -> None:
        """Print what is pruned, what only has its signs taken, and what is left, with counts."""
        print(self)

    @property
    def masks(self) -> dict[str, Tensor]:
        """Name -> uint8, 1 where the weight is left: the mask in force."""
        return dict(self._hold.masks)

    @property
    def remaining(self) -> float:
        """Share of the prunable weights that are left."""
        return signs.remaining(self._hold.masks)

    def rounds(
        self, on_mask: Callable[[int, SignedMask], object] | None = None, *, more: int = 0, solution_epochs: int = 0
    ) -> Iterator[Stage]:
        """Algorithm 1: yields the warm-up, then each round, and between them prunes and rewinds.

        A stage is done when the loop asks for the next. With the `paper` protocol a round trains and then prunes;
        with `released-code` it prunes and then trains. Either way there are `config.rounds` prunes, and the last
        of them is not followed by a rewind: the model keeps its trained sparse weights. After `load_state_dict`, it
        goes on with the stage that was under way.

        Args:
            on_mask: called with the index and the signed mask s_t of each round that is done, before any rewind.
            more: of a search that is done, how many rounds to go on for: what follows is what a longer search does.
            solution_epochs: after the last round, yield one more stage of so many epochs, with the mask held and
                nothing interpolated: the solution that the paper reports, A(theta_T m_T), from the weights that the
                method rewinds to if it does (Section 3.1). `signed_mask()` stays s_T as of the last round. 0: the
                search ends as Algorithm 1 does.
        Raises: RuntimeError if it ran before, after `detach`, or if a weight can't be held any more; ValueError
            for `solution_epochs` with a method that trains scores.
        """
        if more:
            self._extend(more)
        if self._running:
            raise RuntimeError(
                "rounds() runs once for each pruner; rounds(more=...) goes on with a search that is done, a new search "
                "takes a new pruner (detach this one first)"
            )
        if solution_epochs and self._scores:
            raise ValueError(f"'{self.config.method}' trains scores, it has no solution; detach, then train the model")
        self._running = True
        prune_first, last = self._protocol.prune_first, self.config.rounds or 0
        for t in range(self._stage, last + 1):  # Algorithm 1, line 1; t = 0 is the warm-up, which comes before it
            if not self._under_way:
                if t == 0:
                    self._mark("init")
                elif prune_first:
                    self._prune()
                if t > 1 or (t == 1 and prune_first):  # whatever comes after a prune
                    self._rewind()
            yield self._stage_to_train(t)  # lines 2-7, with the schedule of the learning rate rewound (line 9)
            if t == 0:
                self._mark("warmup")
            elif prune_first:
                self._hold.update(self.masks)  # follows weights that were replaced since the last step
            else:
                self._prune()  # line 8
            self._stage, self._under_way = t + 1, False
            if t and on_mask is not None:
                on_mask(t, self.signed_mask())  # line 11, for each t
        if solution_epochs and self._stage == last + 1:
            yield from self._solution(solution_epochs)
        self._alpha.enabled = False

    def _solution(self, epochs: int) -> Iterator[Stage]:
        """A(theta_T m_T), or with the weights that the method rewinds to in the place of theta_T (Section 3.1)."""
        if not self._under_way:
            self._found = self.signed_mask()
            self._rewind()
        yield replace(self._stage_to_train((self.config.rounds or 0) + 1), epochs=epochs)
        self._hold.update(self.masks)
        self._stage, self._under_way = self._stage + 1, False

    def _extend(self, more: int) -> None:
        """Raises: RuntimeError unless the search is done, and what it left is where the next round starts."""
        rounds = self.config.rounds or 0
        if self._found is not None:
            raise RuntimeError(
                "this search has trained its solution and can't go on from there; start another at its mask: "
                "AWSPruner(model, config, mask=pruner.signed_mask())"
            )
        if self._stage != rounds + 1 or self._under_way:
            raise RuntimeError(f"more= goes on with a search that is done; this one is before round {self._stage}")
        self.config = replace(self.config, rounds=rounds + more, target_remaining=None)
        self._running = False

    def _stage_to_train(self, t: int) -> Stage:
        """Raises: RuntimeError if the pruner no longer holds the model."""
        if held_by(self.model) is not self._hold:
            raise RuntimeError("this pruner was detached, so masks would not hold; make a new one to search again")
        self._stage, self._under_way = t, True
        self._warn_of_unfrozen()
        searching = 0 < t <= (self.config.rounds or 0)
        self._alpha.enabled = bool(self._alpha.norms) and (searching or (t == 0 and self._protocol.interpolate_warmup))
        epochs = self.config.epochs_per_round if t else self.config.warmup_epochs
        return Stage(t, self.config.rounds or 0, epochs, self.remaining)

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

    def signed_mask(self) -> SignedMask:
        """sign0(theta * m) of the model as it is now (Algorithm 1, line 11); after `rounds()`, the result."""
        if self._found is not None:
            return self._found
        mask = SignedMask.from_model(self.model, self.config, self._hold.masks)
        return self._with_history(mask)

    def _with_history(self, mask: SignedMask) -> SignedMask:
        if self._history:
            mask.provenance = Provenance(history=self._history)
        return mask

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
        model.load_state_dict(self._hold.masked(self._rewind_point))
        return model

    def sparse_state(self) -> dict[str, Tensor]:
        """Name -> parameter, as theta * m, or buffer: what `save_weights` takes. Tensors of the model itself."""
        return state_of(self.model)

    def rewound_state(self) -> dict[str, Tensor] | None:
        """The same of `rewound_copy`."""
        if self._rewind_point is None:
            return None
        rewound = {clean_name(key): value for key, value in self._hold.masked(self._rewind_point).items()}
        return {name: rewound[name] for name in self.sparse_state()}

    def state_dict(self) -> dict[str, Any]:
        """All that a search has to remember beside the model's own state_dict: tensors and plain values."""
        return {
            "config": self.config.to_dict(),
            "stage": self._stage,
            "begun": self._under_way,
            "masks": self.masks,
            "interpolation": norm_interpolation.state(self.model),
            "rewind_point": self._rewind_point,
            "gradients": self._gradients.state_dict() if self._gradients else None,
            "history": list(self._history),
            "found": None if self._found is None else dict(self._found),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken: before `rounds`, on the same model with its own state loaded.

        The number of rounds may have grown: a search that was done then goes on, and is what a longer one is.

        Raises: ValueError if the state is of a search with another configuration, or with more rounds than this one;
            RuntimeError once rounds() runs.
        """
        if self._running:
            raise RuntimeError("load_state_dict comes before rounds()")
        theirs = SignedMaskConfig.from_dict(state["config"])
        rounds, target = self.config.rounds, self.config.target_remaining
        if replace(theirs, rounds=rounds, target_remaining=target) != self.config:
            raise ValueError(f"the state is of another search: {theirs}; this pruner has {self.config!r}")
        if (theirs.rounds or 0) > (rounds or 0):
            raise ValueError(f"the state is of a search of {theirs.rounds} rounds; this pruner has {rounds}")
        if theirs.rounds != rounds and state.get("found") is not None:
            raise ValueError("the state is of a search that has trained its solution: start a new one at its mask")
        self._hold.update(state["masks"])
        norm_interpolation.load_state(self.model, state["interpolation"])
        self._rewind_point = state["rewind_point"]
        if self._gradients:
            self._gradients.load_state_dict(state["gradients"])
        self._stage, self._under_way = state["stage"], state["begun"]
        self._history = tuple(state.get("history", ()))  # states of before have neither
        if (found := state.get("found")) is not None:
            now = SignedMask.from_model(self.model, self.config)
            self._found = self._with_history(
                SignedMask(
                    found,
                    self.config,
                    prunable=now.prunable,
                    parameters=now.parameters,
                    checkpoint_names=now.checkpoint_names,
                )
            )

    def zero_pruned_(self, model: nn.Module) -> None:
        """Zero what is pruned in another model of the same names; for a running average of the weights, which would
        else carry pruned weights over from before the last prune. A deep copy of the model, as `AveragedModel` makes,
        is held to the masks in force from then on."""
        if (copied := held_by(unwrap(model))) is not None:
            copied.update(self._hold.masks)
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
    """Make an ordinary model again of one that a pruner or a mask holds, or of a copy of such a one."""
    model = unwrap(model)
    if hold := held_by(model):
        hold.remove()
    norm_interpolation.detach(model)
