"""`AWSPruner`: Algorithm 1 around any training loop, for the methods that train weights."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .config import SignedMaskConfig, is_whole
from .mask import SignedMask
from .mask_file import packing
from .mask_file.provenance import Provenance
from .parameters import norm_interpolation
from .parameters.hold import held_by
from .parameters.unwrap import class_name
from .searched_model import SearchedModel
from .starting import MaskSource, as_mask


@dataclass(frozen=True)
class Stage:
    """What to train next: index 0 is the warm-up, 1 to `rounds` are the rounds of Algorithm 1.

    With the `paper` protocol no training follows the last prune, as in Algorithm 1: the last stage has the `remaining`
    of before that prune, and the model is less accurate after the search than at the end of the last stage. The
    solution that the paper reports is trained once more: `rounds(solution_epochs=...)` yields this training as a stage
    with index `rounds` + 1.

    Args:
        index: of the stage.
        rounds: T of Algorithm 1.
        epochs: to train for.
        remaining: share of the prunable weights left while this stage trains, in (0, 1].

    Example:
        >>> from torch import nn
        >>> from aws_lottery import AWSPruner, SignedMaskConfig
        >>> pruner = AWSPruner(nn.Sequential(nn.Linear(10, 10), nn.BatchNorm1d(10), nn.Linear(10, 2)),
        ...                    SignedMaskConfig(rounds=2, warmup_epochs=5, epochs_per_round=3))
        >>> [(stage.index, stage.epochs, stage.remaining) for stage in pruner.rounds()]
        [(0, 5, 1.0), (1, 3, 1.0), (2, 3, 0.8)]
    """

    index: int
    rounds: int
    epochs: int
    remaining: float


class AWSPruner(SearchedModel):
    """Finds a signed mask: train what `rounds()` yields, then take `signed_mask()`.

    The model is trained in place by the caller's own loop. It stays an ordinary module, with the same state_dict
    keys; deep copies and pickles of it are held and interpolated as well. Call `detach` when done.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from aws_lottery import AWSPruner, SignedMaskConfig
        >>> model = nn.Sequential(nn.Linear(10, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 2))
        >>> pruner = AWSPruner(model, SignedMaskConfig(rounds=2, warmup_epochs=1, epochs_per_round=1))
        >>> for stage in pruner.rounds():
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ...     for epoch in range(stage.epochs):
        ...         model(torch.randn(8, 10)).square().mean().backward()
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        >>> pruner.signed_mask()
        SignedMask(Sequential, aws: 0.6400 of 100 prunable weights, 0.7632 of all 152 parameters, 4 tensors)
        >>> pruner.detach()
    """

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
            model: any module, also inside DDP or torch.compile.
            config: None means the default search.
            mask: the mask that the search starts from, instead of the dense network: a SignedMask, its folder, or its
                id on the Hub. Weights with a 0 in it are pruned from the warm-up on. `rounds` counts the prunes that
                follow, and `target_remaining` is still a share of all prunable weights. The model's weights stay as
                they are: call `mask.apply_(model)` first to start from |theta_init| * s, or load the weights of a
                round or of any sparse checkpoint, whose mask is `SignedMask.from_model(model)`. A method that rewinds
                goes back to these weights, or to those after this warm-up.
            psi_init: name -> normalization parameter of a fresh network (its state_dict will do), where those of
                `model` are trained.

        Raises:
            ValueError: If nothing is prunable, if the model is on the meta device, if a pruner or a mask holds the
                model already, if the method needs another pruner, or if the mask does not fit.
        """
        super().__init__(model, config or SignedMaskConfig(), None if mask is None else as_mask(mask), psi_init)
        self._stage = 0  # the next to train, or under way
        self._running = self._under_way = False
        self._alpha_before = self._alpha.position  # at the start of the stage
        self._final_mask: SignedMask | None = None  # s_T, once its solution is being trained

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
            more: number of further rounds, for a search that is done; they equal those of a longer search.
            solution_epochs: after the last round, yield one more stage of so many epochs, with the mask held and
                nothing interpolated: the solution that the paper reports, A(theta_T m_T), from the weights that the
                method rewinds to if it does (Section 3.1). `signed_mask()` stays s_T as of the last round. 0: the
                search ends as Algorithm 1 does.

        Yields:
            What to train next.

        Raises:
            RuntimeError: If it ran before, after `detach`, if a weight can't be held any more, or if a stage that
                interpolates was trained without calling the model in training mode or with other normalization layers.
            ValueError: For `solution_epochs` with a method that trains scores, and for numbers below 0.
        """
        for name, number in (("more", more), ("solution_epochs", solution_epochs)):
            if not is_whole(number) or number < 0:
                raise ValueError(f"rounds: {name} must be a whole number, 0 or more, got {number!r}")
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
                if t > 1 or (t == 1 and prune_first):  # every stage that follows a prune
                    self._rewind()
            yield self._stage_to_train(t)  # lines 2-7, with the schedule of the learning rate rewound (line 9)
            self._check_interpolated(t)
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
            self._final_mask = self.signed_mask()
            self._rewind()
        yield replace(self._stage_to_train((self.config.rounds or 0) + 1), epochs=epochs)
        self._hold.update(self.masks)
        self._stage, self._under_way = self._stage + 1, False

    def _extend(self, more: int) -> None:
        """Raises: RuntimeError unless the search is done and the model has the weights that the next round needs."""
        rounds = self.config.rounds or 0
        if self._final_mask is not None:
            raise RuntimeError(
                "this search has trained its solution and can't go on from there; start another at its mask: "
                "AWSPruner(model, config, mask=pruner.signed_mask())"
            )
        if self._stage != rounds + 1:
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
        self._hold.trained, self._alpha_before = False, self._alpha.position
        epochs = self.config.epochs_per_round if t else self.config.warmup_epochs
        return Stage(t, self.config.rounds or 0, epochs, self.remaining)

    def _check_interpolated(self, t: int) -> None:
        """Raises: RuntimeError if a stage that interpolates was trained, and no forward, or not every layer, did."""
        if not (self._alpha.enabled and self._hold.trained):
            return
        if replaced := norm_interpolation.replaced(self.model, self.partition.norms):
            raise RuntimeError(
                f"'{replaced[0]}' is another layer than when the pruner was made, and was not interpolated (Eq. 2) in "
                f"stage {t}; replace layers (SyncBatchNorm.convert_sync_batchnorm) before the pruner takes the model"
            )
        if self._alpha.position == self._alpha_before:
            raise RuntimeError(
                f"stage {t} was trained without interpolation (Eq. 2), which acts where the "
                f"{class_name(self.model)} that the pruner was given is called in training mode: call that model "
                "itself and not a part of it, after model.train(), or give the pruner the part that is called"
            )

    def signed_mask(self) -> SignedMask:
        """sign0(theta * m) of the model as it is now (Algorithm 1, line 11); after `rounds()`, the result."""
        if self._final_mask is not None:
            return self._final_mask
        mask = SignedMask.from_model(self.model, self.config, self._hold.masks)
        return self._with_history(mask)

    def _with_history(self, mask: SignedMask) -> SignedMask:
        if self._history:
            mask.provenance = Provenance(history=self._history)
        return mask

    def state_dict(self) -> dict[str, Any]:
        """The whole state of a search without the model's own state_dict: tensors and plain values."""
        return {
            **super().state_dict(),
            "config": self.config.to_dict(),
            "stage": self._stage,
            "begun": self._under_way,
            "history": list(self._history),
            "found": None if self._final_mask is None else _packed(self._final_mask),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken: before `rounds`, on the same model with its own state loaded.

        This pruner may have more rounds: a search that was done then goes on, exactly as a longer search would.

        Args:
            state: what `state_dict` gave.

        Raises:
            ValueError: If the state is of a search with another configuration, or with more rounds than this one.
            RuntimeError: Once rounds() runs.
        """
        if self._running:
            raise RuntimeError("call load_state_dict before rounds(), which runs already")
        theirs = SignedMaskConfig.from_dict(state["config"])
        rounds, target = self.config.rounds, self.config.target_remaining
        if replace(theirs, rounds=rounds, target_remaining=target) != self.config:
            raise ValueError(f"the state is of another search: {theirs}; this pruner has {self.config!r}")
        if (theirs.rounds or 0) > (rounds or 0):
            raise ValueError(f"the state is of a search of {theirs.rounds} rounds; this pruner has {rounds}")
        if theirs.rounds != rounds and state.get("found") is not None:
            raise ValueError("the state is of a search that has trained its solution: start a new one at its mask")
        super().load_state_dict(state)
        self._stage, self._under_way = state["stage"], state["begun"]
        self._history = tuple(state.get("history", ()))  # older states have neither
        if (signs := state.get("found")) is not None:
            if isinstance(signs, Tensor):  # older states have them by name
                signs, _ = packing.unpack(signs.cpu().numpy().tobytes())
            now = SignedMask.from_model(self.model, self.config)
            self._final_mask = self._with_history(
                SignedMask(
                    signs,
                    self.config,
                    prunable=now.prunable,
                    parameters=now.parameters,
                    checkpoint_names=now.checkpoint_names,
                )
            )


def _packed(mask: SignedMask) -> Tensor:
    """The bytes of the file of its signs, uint8."""
    return torch.frombuffer(bytearray(packing.pack(mask.signs, {})), dtype=torch.uint8)
