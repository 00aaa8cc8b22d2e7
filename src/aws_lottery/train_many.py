"""Many trainings at once: on small networks a step is mostly overhead, which k networks then share."""

import copy
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import Images, ImageSplit, batches
from .joined import joined, separate_
from .no_trace import compiles
from .parameters.hold import Hold, held_by
from .preflight import check_fit
from .training import epoch_seed, train
from .training_config import OPTIMIZERS, SCHEDULES, TrainingConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

# after a Flatten
LAYERS = (nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Identity)
TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")  # of these layers


def train_many(
    models: Sequence[nn.Module],
    data: Images | ImageSplit,
    config: TrainingConfig,
    *,
    accelerator: "Accelerator",
    seeds: Sequence[int],
    partial_batches: bool = False,
) -> list[float]:
    """`train` for several networks of one architecture at once: the same as one after the other, within rounding.

    Perceptrons share their steps; other networks are trained one after the other, as joining them gave nothing
    (docs/results), and so is whatever `not_joined` names. Each network is held to its own mask, if it has one.

    Args:
        models: trained in place.
        data: for all.
        config: for all.
        accelerator: what they run on.
        seeds: of the data order, one for each model.
        partial_batches: as in `train`.

    Returns:
        The loss of each, the mean over its last epoch.

    Raises:
        ValueError: If there is not one seed for each model, or as `train`.
        FloatingPointError: If a loss is not finite. Networks that share their steps are as they were then.

    Example:
        >>> from accelerate import Accelerator
        >>> from aws_lottery import TrainingConfig, train_many
        >>> from aws_lottery.data import digit_images
        >>> from aws_lottery.models.perceptron import fresh_perceptron
        >>> networks = [fresh_perceptron(seed) for seed in range(4)]
        >>> two_epochs = TrainingConfig(epochs=2, batch_size=64)
        >>> losses = train_many(
        ...     networks, digit_images("train"), two_epochs, accelerator=Accelerator(cpu=True), seeds=range(4)
        ... )
        >>> max(losses) < 0.5
        True
    """
    if len(models) != len(seeds):
        raise ValueError(f"each model needs a seed of its own: got {len(models)} models and {len(seeds)} seeds")
    if reason := not_joined(models, data, config, accelerator):
        logger.info("%d trainings one after the other: %s", len(models), reason)
        return [
            train(model, data, config, accelerator=accelerator, seed=seed, partial_batches=partial_batches)
            for model, seed in zip(models, seeds, strict=True)
        ]
    assert isinstance(data, Images)  # else it is a reason
    batches(data, config.batch_size, seed=0, partial_batch=partial_batches)  # raises what it does in `train`
    for model in models:
        model.to(accelerator.device).train().zero_grad()  # as `train` does, of gradients that were left
    check_fit(models[0], data, accelerator, what="data")
    whole = joined([_without_hold(models[0]), *models[1:]])
    masks = _masks(models, whole)
    with Hold(whole, masks) if masks else nullcontext():
        losses = _train(whole, data.to(accelerator.device), config, seeds, partial_batches)
    separate_(whole, models)
    return losses


def not_joined(
    models: Sequence[nn.Module], data: Images | ImageSplit, config: TrainingConfig, accelerator: "Accelerator"
) -> str | None:
    """Why these trainings can't share their steps; None if they can."""
    kinds = {(repr(model), *(tensor.dtype for tensor in model.state_dict().values())) for model in models}
    tensors = [tensor for model in models for tensor in _tensors(model)]
    reasons = {
        "there are not two of them": len(models) < 2,
        "they are not of one architecture": len(kinds) > 1,
        "they are no perceptrons of Flatten, Linear, BatchNorm1d and activations": not all(map(_perceptron, models)),
        "they share tensors": len(set(map(id, tensors))) < len(tensors),
        "their data is not in memory as Images": not isinstance(data, Images),
        "gradients are clipped": config.max_grad_norm is not None,
        "weights are averaged": config.ema_decay is not None,
        "several processes train each": accelerator.num_processes > 1,
        "gradients are accumulated": accelerator.gradient_accumulation_steps > 1,
        f"they are in {accelerator.mixed_precision}": accelerator.mixed_precision != "no",
        "they are compiled": compiles(accelerator),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def _perceptron(model: nn.Module) -> bool:
    """Whether it is one that `joined` knows, as torch makes it: no hooks, no other tensors, no forward of its own."""
    if type(model) is not nn.Sequential or not len(model) or repr(model[0]) != repr(nn.Flatten()):
        return False
    layers = [*model]
    return (
        all(type(layer) in LAYERS for layer in layers[1:])
        and all(map(_plain, (model, *layers)))
        and len(set(layers)) == len(layers)  # a layer that comes twice is one
        and all(getattr(layer, "momentum", 0) is not None for layer in layers)  # whose statistics take a count of each
        and all(name.partition(".")[2] in TENSORS for name in model.state_dict())
        and any(True for _ in model.parameters())
        and all(parameter.requires_grad and not parameter._backward_hooks for parameter in model.parameters())
    )


def _plain(layer: nn.Module) -> bool:
    forward, backward = (
        (layer._forward_hooks, layer._forward_pre_hooks),
        (layer._backward_hooks, layer._backward_pre_hooks),
    )
    return not (any(forward) or any(backward) or "forward" in vars(layer))


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers; one that has two names twice."""
    named = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    return (tensor for _, tensor in chain(*named))


def _without_hold(model: nn.Module) -> nn.Module:
    """A copy, as the copy of a held model is held by a hold of its own."""
    model = copy.deepcopy(model)
    if hold := held_by(model):
        hold.remove()
    return model


def _masks(models: Sequence[nn.Module], whole: nn.Module) -> dict[str, Tensor]:
    """Those of all models, shaped like the tensors of `whole`; what a model does not hold has ones."""
    each = [hold.masks if (hold := held_by(model)) else {} for model in models]
    return {
        name: torch.stack(
            [
                masks.get(name, torch.ones_like(model.get_parameter(name), dtype=torch.uint8))
                for masks, model in zip(each, models, strict=True)
            ]
        ).view_as(whole.get_parameter(name))
        for name in sorted(set().union(*each))
    }


def _train(
    whole: nn.Module, data: Images, config: TrainingConfig, seeds: Sequence[int], partial_batches: bool
) -> list[float]:
    images, labels = data.tensors[0], data.tensors[1].long()  # of uint8, too, as `train` takes them
    optimizer = OPTIMIZERS[config.optimizer](whole.parameters(), config)
    schedule = SCHEDULES[config.schedule](optimizer, config)
    losses = [math.nan] * len(seeds)
    for epoch in range(config.epochs):
        order = torch.stack([_order(len(images), epoch_seed(seed, epoch)) for seed in seeds])
        parts = order.to(images.device).split(config.batch_size, dim=1)  # each (k, batch)
        if not partial_batches and parts[-1].shape[1] < config.batch_size:
            parts = parts[:-1]
        total = torch.zeros(len(seeds), device=images.device)
        for part in parts:
            x = images[part].transpose(0, 1).flatten(1, 2)  # (batch, k * channels, height, width)
            logits = whole(x).view(*part.shape[:1], -1, part.shape[1])
            each = F.cross_entropy(logits, labels[part], reduction="none").mean(dim=1)
            each.sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            total += each.detach()
        schedule.step()
        losses = (total / len(parts)).tolist()
        if not all(map(math.isfinite, losses)):
            raise FloatingPointError(f"a loss is not finite in epoch {epoch + 1} of {config.epochs}: {losses}")
    return losses


def _order(length: int, seed: int) -> Tensor:
    """That of the loader that `train` has in an epoch of this seed."""
    indices = torch.arange(length)
    (batch,) = batches(Images(indices, indices), length, seed=seed)
    return batch[0]
