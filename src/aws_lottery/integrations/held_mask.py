"""`HeldMask`: a final training from a signed mask by `transformers.Trainer`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..fsdp import check_shardable
from ..parameters.hold import Hold
from ..parameters.unwrap import parameters_of, unwrap
from ..processes import refuse_sharding, share_buffers_, together, warn_if_whole
from ..sharding import local
from ..starting import MaskSource, as_mask
from .calibration import recalibrate_on, settle_statistics_
from .checkpoints import load_renamed_, resumed_folders


class HeldMask(TrainerCallback):
    """A final training from a signed mask: it begins with theta = |theta_init| * s (Section 3.2), and pruned weights
    stay 0 to its end, also when it is resumed.

    `HeldMask(mask.binary())` is the control with the mask alone: weights keep the signs of the initialization.
    `load_best_model_at_end` works, as all checkpoints are of this mask.

    Example:
        >>> from transformers import Trainer, TrainingArguments
        >>> from aws_lottery import HeldMask
        >>> arguments = TrainingArguments("final", num_train_epochs=100)  # doctest: +SKIP
        >>> Trainer(fresh, arguments, train_dataset=data, callbacks=[HeldMask(mask)]).train()  # doctest: +SKIP
    """

    def __init__(self, mask: MaskSource, *, apply: bool = True, **matching: Any):
        """For one `train()`, or several on models of the same kind.

        Args:
            mask: what the model is held to, or its folder or its id on the Hub.
            apply: False keeps the weights that survive as they are: for a solution, which starts from weights of its
                search.
            matching: `exclude`, `names` and `match`, as `SignedMask.apply_` takes them.

        Raises:
            TypeError: For what is none of these; as `SignedMask.from_pretrained` for a mask that can't be read.
        """
        self.mask, self.apply, self.matching = as_mask(mask), apply, matching
        self._hold: Hold | None = None

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model, **of_trainer
    ) -> None:
        """Raises: ValueError for a configuration by which accelerate can't shard this model."""
        check_shardable(model, AcceleratorState())

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model,
        train_dataloader,
        **of_trainer,
    ) -> None:
        """Apply the mask, and hold it. Raises: ValueError if it does not fit, or a checkpoint is not of this mask."""
        refuse_sharding(AcceleratorState(), but_fsdp2=True)
        warn_if_whole(AcceleratorState())
        self._release()
        model = unwrap(model)
        with together(PartialState()):
            if state.global_step and (folder := next(filter(Path.is_dir, resumed_folders(args, state)), None)):
                load_renamed_(model, folder)
        before = _nonzeros(parameters_of(model))
        if self.apply and not state.global_step:
            self.mask.apply_(model, **self.matching)
        self._hold = self.mask.held(model, **self.matching)
        if state.global_step:
            with together(PartialState()):
                _require_same(before, self._hold, state.global_step)
        if args.eval_on_start:
            recalibrate_on(model, train_dataloader, batch_size=args.per_device_train_batch_size)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model, **of_trainer
    ) -> None:
        """Give all processes the same BatchNorm statistics before an evaluation or a checkpoint within an epoch."""
        settle_statistics_(unwrap(model), args, control)

    on_epoch_end = on_step_end  # before those of an epoch

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model, **of_trainer
    ) -> None:
        """Leave the model an ordinary one, with the same BatchNorm statistics on all processes."""
        share_buffers_(unwrap(model), PartialState())
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            with together(PartialState()):
                load_renamed_(unwrap(model), Path(state.best_model_checkpoint))
        self._release()

    def _release(self) -> None:
        if self._hold is not None:
            self._hold.remove()
        self._hold = None


@torch.no_grad()
def _nonzeros(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Of the part of each that is in this process."""
    return {name: int(torch.count_nonzero(local(tensor))) for name, tensor in tensors.items()}


def _require_same(before: Mapping[str, int], hold: Hold, step: int) -> None:
    after = _nonzeros(hold.weights)
    unmasked = {name: before[name] - count for name, count in after.items() if before[name] > count}
    if unmasked:
        raise ValueError(
            f"the checkpoint of step {step} is not of this mask: {sum(unmasked.values()):,} weights that it prunes are "
            f"not 0 there, in '{next(iter(unmasked))}' first. Resume with the mask that the training began with"
        )
