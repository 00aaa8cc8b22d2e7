"""A(theta, u): ordinary training of a network from theta with SGD noise u, on accelerate; and its measure."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, MultiStepLR

from .data import Images, batches
from .partition import bare_model

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Hyper-parameters of A(theta, u); the defaults are the paper's for CIFAR-100 and Tiny-ImageNet (Section 4.1).

    Args:
        epochs: of the whole training.
        optimizer: a key of OPTIMIZERS.
        learning_rate: at the start.
        momentum: of SGD; the Adams take their usual betas.
        weight_decay: on every parameter, normalization included.
        schedule: a key of SCHEDULES, stepped once an epoch.
        milestones: shares of `epochs` after which `multistep` multiplies the learning rate by 0.1.
        batch_size: over all processes together.
        max_grad_norm: gradients are clipped to this global norm; None: not at all.
    Raises: ValueError for an unknown optimizer or schedule.
    """

    epochs: int = 100
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "multistep"
    milestones: tuple[float, ...] = (0.5, 0.75)
    batch_size: int = 128
    max_grad_norm: float | None = None

    def __post_init__(self) -> None:
        for name, rows in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in rows:
                raise ValueError(
                    f"TrainingConfig: {name} must be one of {', '.join(rows)}, got {getattr(self, name)!r}"
                )


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], TrainingConfig], Optimizer]] = {
    "sgd": lambda p, c: SGD(p, c.learning_rate, momentum=c.momentum, weight_decay=c.weight_decay),
    "adam": lambda p, c: Adam(p, c.learning_rate, weight_decay=c.weight_decay),
    "adamw": lambda p, c: AdamW(p, c.learning_rate, weight_decay=c.weight_decay),
}
SCHEDULES: dict[str, Callable[[Optimizer, TrainingConfig], LRScheduler]] = {
    "constant": lambda o, c: LambdaLR(o, lambda epoch: 1.0),
    "multistep": lambda o, c: MultiStepLR(o, [math.ceil(share * c.epochs) for share in c.milestones]),
    "cosine": lambda o, c: CosineAnnealingLR(o, max(c.epochs, 1)),
}


def train(
    model: nn.Module,
    data: Images,
    config: TrainingConfig,
    *,
    accelerator: "Accelerator",
    seed: int,
    on_step: Callable[[], Any] = lambda: None,
) -> float:
    """Train `model` in place: A(theta, u).

    Args:
        seed: u, the data order; apart from the seed of the initialization.
        on_step: called after each optimizer step (a progress bar).
    Returns: mean loss over the last epoch, of this process; NaN for 0 epochs.
    Raises: FloatingPointError if the loss of an epoch is NaN or infinite.
    """
    optimizer = OPTIMIZERS[config.optimizer](model.parameters(), config)
    schedule = SCHEDULES[config.schedule](optimizer, config)  # unprepared: it counts epochs, not steps
    network, prepared, loader = accelerator.prepare(model, optimizer, batches(data, config.batch_size, seed=seed))
    loss = float("nan")
    for epoch in range(config.epochs):
        loss = _train_epoch(network, prepared, loader, config, accelerator, on_step)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} in epoch {epoch + 1} of {config.epochs}; "
                f"lower learning_rate={config.learning_rate}"
            )
        schedule.step()
    accelerator.unwrap_model(network, keep_fp32_wrapper=False)
    accelerator.free_memory()
    return loss


def _train_epoch(network, optimizer, loader, config: TrainingConfig, accelerator: "Accelerator", on_step) -> float:
    network.train()
    total, count = torch.zeros((), device=accelerator.device), 0
    for images, labels in loader:
        with accelerator.accumulate(network):
            loss = F.cross_entropy(logits(network(images)), labels)
            accelerator.backward(loss)
            if config.max_grad_norm is not None and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(network.parameters(), config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            on_step()
        total, count = total + loss.detach(), count + 1
    return float(total / max(count, 1))


def logits(output: Any) -> Tensor:
    """The logits (batch, classes) of a plain module or of a transformers model."""
    return output if isinstance(output, Tensor) else output.logits


@torch.no_grad()
def recalibrate(model: nn.Module, data: Iterable[tuple[Tensor, ...]], *, max_batches: int = 20) -> None:
    """Re-estimate BatchNorm's running statistics at psi, as the plain mean over batches (cumulative average).

    AWS trains under random interpolations of psi, and transfer replaces the weights: the statistics that either
    leaves behind belong to another network. All but BatchNorm runs in evaluation mode, so psi is not interpolated.
    Every process must be given the same batches. A model without such statistics is left as it is.

    Args:
        data: batches whose first element is the model's input; on any device.
    """
    model = bare_model(model)
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not layers:
        return
    training, momenta = model.training, [layer.momentum for layer in layers]
    device = next(model.parameters()).device
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's word for the cumulative average
        layer.train()
    for _, (images, *_) in zip(range(max_batches), data, strict=False):
        model(images.to(device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.train(training)


@torch.no_grad()
def evaluate(model: nn.Module, data: Images, *, accelerator: "Accelerator", batch_size: int = 512) -> float:
    """Top-1 accuracy in percent over `data`, with psi as trained, the same on every process."""
    from .metrics import Accuracy

    metric = Accuracy()
    model = bare_model(model)
    training = model.training
    model.to(accelerator.device).eval()
    loader = accelerator.prepare_data_loader(batches(data, batch_size))
    for images, labels in loader:
        with accelerator.autocast():
            predictions = logits(model(images)).argmax(dim=-1)
        predictions, labels = accelerator.gather_for_metrics((predictions, labels))
        metric.add_batch(predictions=predictions.cpu().numpy(), references=labels.cpu().numpy())
    model.train(training)
    result = metric.compute()
    assert result is not None
    return result["accuracy"]
