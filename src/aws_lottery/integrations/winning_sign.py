"""`WinningSignCallback`: a whole search in one `train()` of `transformers.Trainer`.

search = WinningSignCallback(SignedMaskConfig(warmup_epochs=5, epochs_per_round=5, rounds=9))
args = TrainingArguments("search", num_train_epochs=search.epochs, lr_scheduler_type="constant")
Trainer(model, args, train_dataset=data, callbacks=[search]).train()

args = TrainingArguments("final", num_train_epochs=100)
Trainer(fresh_model, args, train_dataset=data, callbacks=[HeldMask(search.mask)]).train()
"""

import logging
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.state import AcceleratorState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from ..atomic import make_folder
from ..config import METHODS, PROTOCOLS, SignedMaskConfig
from ..fsdp import check_shardable
from ..mask import SignedMask
from ..parameters.unwrap import unwrap
from ..processes import refuse_sharding, share_buffers_, together, warn_if_whole
from ..pruner import AWSPruner, Stage
from ..runs.lock import require_shared
from ..runs.round_folder import round_folder, save_round
from ..sharding import is_sharded_model
from .arguments import hyper_parameters, refuse
from .calibration import recalibrate_on, settle_statistics_
from .checkpoints import checkpoint_folder, load_search, save_search, save_sharded_search
from .stages import group_settings, renew_, restart_in_every_stage_, stage_epochs, stage_of

logger = logging.getLogger(__name__)


class WinningSignCallback(TrainerCallback, ExportableState):
    """Algorithm 1 in one `trainer.train()`, whose epochs are those of the search: `epochs`.

    Each stage starts with new optimizer statistics and with the schedule that the TrainingArguments describe, run over
    that stage alone (`lr_scheduler_type="constant"` is the paper's). A round ends, and is pruned, when the next epoch
    begins, so what the Trainer evaluates at the end of an epoch is a trained network; its BatchNorm statistics are
    re-estimated before, where the protocol says so. The last prune comes at the end of the training; the model keeps
    its sparse weights, which are not trained after it. With `solution_epochs` the solution that the paper reports is
    trained from them in the same `train()`.

    Each round's mask and weights go to `output_dir/round-01`, `round-02`, ... as `find_signed_mask` has them. The
    Trainer's own checkpoints hold the state of the search, and `trainer.train(resume_from_checkpoint=True)` ends,
    on CPU, with the same signs, bit for bit. With `push_to_hub=True` the last mask is pushed to a repository of its
    own.

    `mask` is the SignedMask of the last round that is done, and `pruner`, while it trains, the AWSPruner.

    Example:
        >>> from transformers import Trainer, TrainingArguments
        >>> from aws_lottery import SignedMaskConfig, WinningSignCallback
        >>> search = WinningSignCallback(SignedMaskConfig(warmup_epochs=5, epochs_per_round=5, rounds=9))
        >>> search.epochs
        50
        >>> arguments = TrainingArguments(
        ...     "search", num_train_epochs=search.epochs, lr_scheduler_type="constant"
        ... )  # doctest: +SKIP
        >>> Trainer(model, arguments, train_dataset=data, callbacks=[search]).train()  # doctest: +SKIP
    """

    def __init__(
        self,
        config: SignedMaskConfig | Mapping[str, Any] | None = None,
        *,
        solution_epochs: int = 0,
        hub_mask_id: str | None = None,
        about: Mapping[str, Any] | None = None,
    ):
        """For one `train()` after another, each a search of its own.

        Args:
            config: of the search, of any method but `gm`; None means the default one.
            solution_epochs: as in `AWSPruner.rounds`: one more stage, which leaves the model with the solution; that is
                kept in a folder `solution`, too.
            hub_mask_id: repository for the mask; None: the model's, with `-signed-mask` at its end.
            about: fields of `Provenance` for the cards of the masks that only the user knows.

        Raises:
            ValueError: For a method that trains scores; from the Trainer's constructor or its `train`, for
                TrainingArguments that a search can't run under, each with what to write instead.
        """
        if not isinstance(config, SignedMaskConfig):
            config = SignedMaskConfig.from_dict(config or {})
        if METHODS[config.method].scores:
            raise ValueError(f"method '{config.method}' trains scores and not weights: use find_signed_mask for it")
        self.config, self.solution_epochs = config, solution_epochs
        self.hub_mask_id, self.about = hub_mask_id, dict(about or {})
        self.mask: SignedMask | None = None
        self.pruner: AWSPruner | None = None
        self._search = ""  # an id that a checkpoint's state and its file have in common
        self._saved_at = -1

    @property
    def epochs(self) -> int:
        """Epochs of the whole `train()`: of the search and of the solution."""
        return sum(self._stage_epochs)

    @property
    def _stage_epochs(self) -> list[int]:
        return stage_epochs(self.config, self.solution_epochs)

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model, **of_trainer
    ) -> None:
        """Refuse arguments that a search can't run under."""
        refuse(args, self.config, self.solution_epochs)
        check_shardable(model, AcceleratorState())

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model,
        optimizer,
        lr_scheduler,
        **of_trainer,
    ) -> None:
        """Begin the search, or take it up from a checkpoint."""
        refuse(args, self.config, self.solution_epochs)
        refuse_sharding(AcceleratorState(), but_fsdp2=True)
        warn_if_whole(AcceleratorState())
        if state.is_hyper_param_search:
            raise ValueError("hyperparameter_search keeps its checkpoints elsewhere; give each search a Trainer")
        self._release()
        self._args, self._state, self._saved_at = args, state, -1
        saved = load_search(args, state, unwrap(model), type(self).__name__) if state.global_step else None
        self.pruner = pruner = AWSPruner(model, self.config)
        if is_sharded_model(pruner.model):
            folder = Path(args.output_dir or ".")
            with together(PartialState()):
                make_folder(folder)
            require_shared(folder, PartialState())
        if saved is not None:
            pruner.load_state_dict(saved["pruner"])
            self._search, self._settings = saved["search"], saved["groups"]
        else:
            self._search, self._settings = secrets.token_hex(8), group_settings(optimizer)
        restart_in_every_stage_(lr_scheduler, args, self._stage_epochs, state.max_steps)
        self.mask, self._stage = None, None
        self._epoch = state.global_step * self.epochs // state.max_steps
        self._rounds: Iterator[Stage] = pruner.rounds(on_mask=self._keep_round, solution_epochs=self.solution_epochs)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, optimizer, **of_trainer
    ) -> None:
        """End the stage that is done, and begin the next."""
        stage = stage_of(self._epoch, self._stage_epochs)
        while self._stage is None or self._stage.index < stage:
            is_first = self._stage is None  # of this `train()`: the warm-up, or the stage that the checkpoint was in
            self._stage = next(self._rounds)
            if not is_first:
                renew_(optimizer, self._settings)
            logger.info("round %d of %d: %.4f remaining", self._stage.index, self._stage.rounds, self._stage.remaining)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, train_dataloader, **of_trainer
    ) -> None:
        """Settle BatchNorm's statistics before an evaluation or a checkpoint within an epoch."""
        self._settle_statistics(args, control, train_dataloader)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, train_dataloader, **of_trainer
    ) -> None:
        """Settle BatchNorm's statistics before the evaluation and the checkpoint of an epoch."""
        self._epoch += 1
        self._settle_statistics(args, control, train_dataloader)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, logs, **of_trainer
    ) -> None:
        """Add the share of remaining weights to what is logged."""
        if self._stage_under_way:
            prefix = "eval_" if any(name.startswith("eval_") for name in logs) else ""
            for record in (logs, state.log_history[-1]):  # the bar's, and the one that is kept
                record[f"{prefix}remaining"] = self._stage_under_way.remaining

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, train_dataloader, **of_trainer
    ) -> None:
        """End the search, keep its last mask, and leave the model an ordinary one."""
        assert self.pruner is not None
        if self._epoch < self.epochs:
            logger.warning(
                "the training ended after %d of %d epochs, so the search is not done; "
                "trainer.train(resume_from_checkpoint=True) goes on from the last checkpoint",
                self._epoch,
                self.epochs,
            )
        else:
            for _ in self._rounds:  # ends the last stage
                pass
            self.mask = self.mask or self.pruner.signed_mask()  # a resumed solution comes after all rounds
            if self.solution_epochs:
                self._keep("solution", self.mask)
            if PROTOCOLS[self.config.protocol].recalibrate:
                recalibrate_on(self.pruner.model, train_dataloader, batch_size=args.per_device_train_batch_size)
            if args.push_to_hub:
                self._push(args, state)
        share_buffers_(self.pruner.model, PartialState())
        self._release()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **of_trainer) -> None:
        """After a checkpoint, on all processes: the parts of a sharded model are in all of them."""
        if self.pruner is not None and is_sharded_model(self.pruner.model):
            save_sharded_search(checkpoint_folder(args, state), self._search_state())

    def state(self) -> dict[str, Any]:
        """The callback's entry in trainer_state.json. The Trainer asks for it, in one process, whenever it writes a
        checkpoint. No event reports every checkpoint, so the file with the tensors is written here as well, unless
        the model is sharded."""
        if self.pruner is not None and not is_sharded_model(self.pruner.model):
            self._save_state()
        arguments = {name: getattr(self, name) for name in ("solution_epochs", "hub_mask_id", "about")}
        arguments["config"] = self.config.to_dict()
        return {"args": arguments, "attributes": {"_search": self._search}}

    @property
    def _stage_under_way(self) -> Stage | None:
        return None if self.pruner is None else self._stage

    def _save_state(self) -> None:
        folder, step = checkpoint_folder(self._args, self._state), self._state.global_step
        if step != self._saved_at and folder.is_dir():
            save_search(folder, self._search_state())
            self._saved_at = step

    def _search_state(self) -> dict[str, Any]:
        assert self.pruner is not None
        state = {"pruner": self.pruner.state_dict(), "groups": self._settings, "max_steps": self._state.max_steps}
        return {"search": self._search, "step": self._state.global_step, **state}

    def _keep_round(self, index: int, mask: SignedMask) -> None:
        self.mask = mask
        self._keep(round_folder("", index).name, mask)

    def _keep(self, name: str, mask: SignedMask) -> None:
        assert self.pruner is not None
        about = {"training": hyper_parameters(self._args), **self.about}
        save_round(Path(self._args.output_dir or ".") / name, mask, self.pruner, PartialState(), about=about)

    def _settle_statistics(self, args: TrainingArguments, control: TrainerControl, train_dataloader: Any) -> None:
        assert self.pruner is not None
        data = train_dataloader if PROTOCOLS[self.config.protocol].recalibrate else None
        settle_statistics_(self.pruner.model, args, control, data)

    def _push(self, args: TrainingArguments, state: TrainerState) -> None:
        folder = Path(args.output_dir or ".")
        with together(PartialState()):
            if state.is_world_process_zero:
                mask = SignedMask.from_pretrained(round_folder(folder, self.config.rounds or 0))
                repo_id = self.hub_mask_id or f"{args.hub_model_id or folder.name}-signed-mask"
                mask.push_to_hub(repo_id, private=args.hub_private_repo, token=args.hub_token)

    def _release(self) -> None:
        if self.pruner is not None:
            self.pruner.detach()
        self.pruner = None
