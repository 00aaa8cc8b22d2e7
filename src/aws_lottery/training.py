"""A(theta, u): ordinary training of a network from theta with SGD noise u, on accelerate."""

import hashlib
import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from .data import Images, ImageSplit, batches
from .data.batches import check_batch_size, shared
from .evaluation import logits
from .fsdp import prepared
from .no_trace import keep_compiled_, leaving_no_trace
from .preflight import check_fit
from .processes import refuse_sharding, share_buffers_
from .sharding import local, reshard_
from .training_config import OPTIMIZERS, SCHEDULES, TrainingConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


logger = logging.getLogger(__name__)


class Training:
    """A training under way: what moves on, and what a checkpoint has to hold beside model and random states.

    A model may be sharded, by accelerate (FSDP2) or by the caller (fully_shard).

    Args:
        model: what is trained, in place.
        config: its hyper-parameters.
        accelerator: what it runs on.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, accelerator: "Accelerator"):
        self.config, self.accelerator = config, accelerator
        _warn_of_whole_batches(config, accelerator)
        reshard_(model)  # the optimizer is to train the shards, not whole copies that an evaluation left
        optimizer = OPTIMIZERS[config.optimizer](model.parameters(), config)
        optimizer.zero_grad()  # a training that was cut between backward and step left its gradients
        self.schedule = SCHEDULES[config.schedule](optimizer, config)  # not prepared: it counts epochs, not steps
        self.network, self.optimizer = prepared(model, optimizer, accelerator)
        keep_compiled_(model, accelerator)
        self.epoch = self.step = 0  # done, of the training and of the epoch
        self.total_loss = torch.zeros((), device=accelerator.device)  # over the steps of the epoch
        self.loss = math.nan  # mean over the last epoch that is done
        self.average: list[Tensor] | None = None  # of the parameters, from the first optimizer step on
        self.images, self.seconds = 0, 0.0  # trained on by all processes, and in what time

    def state_dict(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "epoch": self.epoch,
            "step": self.step,
            "total_loss": self.accelerator.gather(self.total_loss),  # of each process
            "loss": self.loss,
            "average": self.average,
            "images": self.images,
            "seconds": self.seconds,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def state_to_go_on(self) -> dict[str, Any]:
        """Of a training that stopped at an epoch's end, for one that goes on with a cost and an average of its own."""
        return {**self.state_dict(), "average": None, "images": 0, "seconds": 0.0}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.step, self.loss = state["epoch"], state["step"], state["loss"]
        self.images, self.seconds = state["images"], state["seconds"]
        losses = state["total_loss"].flatten()  # of each process; a sharded run may go on with another number of them
        same = len(losses) == self.accelerator.num_processes
        self.total_loss.copy_(losses[self.accelerator.process_index] if same else losses.mean())
        if state["average"] is not None:
            self.average = [value.to(self.accelerator.device).clone() for value in state["average"]]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def cost(self) -> dict[str, float]:
        """Seconds of the steps and of getting their data, checkpoints and measuring apart; and images in each."""
        rate = self.images / self.seconds if self.seconds else 0.0
        return {"seconds": round(self.seconds, 2), "images_per_second": round(rate, 2)}

    def mean_loss(self) -> float:
        """Over the epoch so far, of all processes; every process has to call it.

        Returns:
            The mean; NaN before the first step.

        Raises:
            FloatingPointError: On all processes, if any loss of it was NaN or infinite on any of them.
        """
        if not self.step:
            return math.nan
        loss = float(self.accelerator.reduce(self.total_loss, "mean")) / self.step  # type: ignore[arg-type]
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} in epoch {self.epoch + 1} of {self.config.epochs}; "
                f"lower learning_rate={self.config.learning_rate}, or go on from an earlier checkpoint"
            )
        return loss

    def learn(self, images: Tensor, labels: Tensor) -> bool:
        """One forward and backward; returns whether it made an optimizer step (see gradient accumulation)."""
        with self.accelerator.accumulate(self.network):
            loss = F.cross_entropy(logits(self.network(images)), labels)
            self.accelerator.backward(loss)
            if self.config.max_grad_norm is not None and self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.network.parameters(), self.config.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        if self.config.ema_decay is not None and self.accelerator.sync_gradients:
            self._take_into_average(self.config.ema_decay)
        self.total_loss += loss.detach()
        self.step += 1
        self.images += len(images) * _batches_at_once(self.accelerator)
        return self.accelerator.sync_gradients

    @torch.no_grad()
    def _take_into_average(self, decay: float) -> None:
        """Of tensors, not of a copy of the model, which would bring a hold and a stream of alpha of its own."""
        if self.optimizer.step_was_skipped:  # by the loss scaler of fp16
            return
        parameters: list[Tensor] = [*self.network.parameters()]
        if self.average is None:
            self.average = [parameter.detach().clone() for parameter in parameters]
        else:
            average, now = ([local(tensor) for tensor in tensors] for tensors in (self.average, parameters))
            get_ema_multi_avg_fn(decay)(average, now, None)  # in one call, though some may be sharded and others not

    @torch.no_grad()
    def put_average_(self) -> None:
        """Leave the averaged weights in the network, if there are any."""
        for parameter, value in zip(self.network.parameters(), self.average or (), strict=False):
            parameter.copy_(value)

    def end_epoch(self) -> None:
        """Raises: FloatingPointError if the epoch's mean loss is NaN or infinite."""
        self.loss = self.mean_loss()
        self.schedule.step()
        self.epoch, self.step = self.epoch + 1, 0
        self.total_loss.zero_()


def _batches_at_once(accelerator: "Accelerator") -> int:
    """Different batches, or parts of one, that the processes have in a step: those of a tensor-parallel group share."""
    config = accelerator.parallelism_config
    return accelerator.num_processes // (config.non_data_parallel_size if config else 1)


def fills_up(accelerator: "Accelerator") -> bool:
    """Whether accelerate fills up a last batch that is not full: where processes share batches out evenly."""
    return _batches_at_once(accelerator) > 1 and accelerator.even_batches


def _warn_of_whole_batches(config: TrainingConfig, accelerator: "Accelerator") -> None:
    if _batches_at_once(accelerator) > 1 and not accelerator.split_batches and accelerator.is_main_process:
        logger.warning(
            "each of %d processes takes batches of %d images, %d in a step; for %d in a step make the accelerator with "
            "dataloader_config=DataLoaderConfiguration(split_batches=True)",
            _batches_at_once(accelerator),
            config.batch_size,
            _batches_at_once(accelerator) * config.batch_size,
            config.batch_size,
        )


def train(
    model: nn.Module,
    data: Images | ImageSplit,
    config: TrainingConfig,
    *,
    accelerator: "Accelerator",
    seed: int,
    on_step: Callable[[Training], Any] = lambda training: None,
    on_end: Callable[[Training], Any] = lambda training: None,
    resume: dict[str, Any] | None = None,
    until: int | None = None,
    partial_batches: bool = False,
) -> float:
    """Train `model` in place: A(theta, u). With `config.ema_decay` it ends at the averaged weights.

    Nothing of one training is left in the model or the accelerator that would change the next one, also after an error.

    Args:
        model: theta; changed in place, and moved to the accelerator's device.
        data: to train on.
        config: the hyper-parameters.
        accelerator: what it runs on: devices, processes, mixed precision, gradient accumulation.
        seed: u, the data order; apart from the seed of the initialization.
        on_step: called after each optimizer step (for a progress bar, a checkpoint).
        on_end: called once at the end (for what it cost).
        resume: the state_dict of a Training to go on from, in its data order; model and random states are the caller's.
        until: the epoch to stop at, of those of `config`, whose schedule stays as it is; None: the last.
        partial_batches: train on an epoch's last batch if it is not full, too (Protocol.partial_batches; `batches`).

    Returns:
        Mean loss over the batches of the last epoch, of all processes; NaN for 0 epochs.

    Raises:
        ValueError: Before the first step, if the model does not fit the data, and for FSDP1, DeepSpeed and
            Megatron-LM.
        FloatingPointError: If a loss is NaN or infinite, at the end of its epoch.

    Example:
        >>> from accelerate import Accelerator
        >>> from torch import nn
        >>> from aws_lottery import TrainingConfig, train
        >>> from aws_lottery.data import digit_images
        >>> model, two_epochs = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), TrainingConfig(epochs=2, batch_size=64)
        >>> loss = train(model, digit_images("train"), two_epochs, accelerator=Accelerator(cpu=True), seed=0)
        >>> loss < 0.5
        True
    """
    refuse_sharding(accelerator, but_fsdp2=True)
    with leaving_no_trace(model, accelerator):
        training = Training(model, config, accelerator)
        check_fit(training.network, data, accelerator, what="data")
        if resume is not None:
            training.load_state_dict(resume)
        while training.epoch < (config.epochs if until is None else until):
            order_seed = epoch_seed(seed, training.epoch)
            partial = {"partial_batch": partial_batches, "filled_up": fills_up(accelerator)}
            with shared(batches(data, config.batch_size, seed=order_seed, **partial), accelerator) as loader:
                _train_epoch(training, loader, on_step)
        training.put_average_()
        share_buffers_(training.network, accelerator)
        on_end(training)
    return training.loss


def _train_epoch(training: Training, loader: DataLoader, on_step: Callable[[Training], Any]) -> None:
    """Train on what is left of an epoch."""
    from accelerate import skip_first_batches

    training.network.train()
    start = time.perf_counter()
    for images, labels in skip_first_batches(loader, training.step) if training.step else loader:
        stepped = training.learn(images, labels)
        if training.step == len(loader):
            training.end_epoch()  # before on_step: a checkpoint there is of the schedule's next epoch already
        training.seconds += time.perf_counter() - start
        if stepped:
            on_step(training)
        start = time.perf_counter()


def steps_an_epoch(
    data: Images | ImageSplit, config: TrainingConfig, accelerator: "Accelerator", *, partial_batches: bool = False
) -> int:
    """Optimizer steps in an epoch of `train`, of all processes together; batches left over at its end make one, too.

    Raises: ValueError if there would be none, as a batch is larger than the data.
    """
    check_batch_size(len(data), config.batch_size, partial_batch=partial_batches, filled_up=True)
    count = math.ceil if partial_batches else math.floor
    at_once = 1 if accelerator.split_batches else _batches_at_once(accelerator)
    batches_of_each = count(count(len(data) / config.batch_size) / at_once)
    return math.ceil(batches_of_each / accelerator.gradient_accumulation_steps)


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed of its own for each epoch, so that an epoch can be taken up without the ones before."""
    digest = hashlib.sha256(f"{seed} {epoch}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
