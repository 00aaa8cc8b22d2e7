"""Measuring a network: its accuracy, with BatchNorm's statistics made to belong to it."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .data import Images, ImageSplit, batches
from .parameters.unwrap import unwrap
from .sharding import is_sharded_model

if TYPE_CHECKING:
    from accelerate import Accelerator


def logits(output: Any) -> Tensor:
    """The logits (batch, classes) of a plain module or of a transformers model."""
    return output if isinstance(output, Tensor) else output.logits


@torch.no_grad()
def recalibrate(
    model: nn.Module, data: Iterable[Sequence[Tensor] | Mapping[str, Any]], *, max_batches: int = 20
) -> None:
    """Re-estimate BatchNorm's running statistics at psi, as the plain mean over batches (cumulative average).

    AWS trains under random interpolations of psi, and transfer replaces the weights: the statistics that either
    leaves behind belong to another network. All but BatchNorm runs in evaluation mode, so psi is not interpolated.
    Every process must be given the same batches. A model without such statistics is left as it is.

    Args:
        data: batches, on any device: sequences whose first element is the model's input, or mappings of its keyword
            arguments.
    """
    model = unwrap(model)
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
    for batch in islice(data, max_batches):
        if isinstance(batch, Mapping):
            model(**{name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()})
        else:
            model(batch[0].to(device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.train(training)


def accuracy_of(
    model: nn.Module,
    test_data: Images | ImageSplit,
    *,
    train_data: Images | ImageSplit,
    batch_size: int,
    accelerator: "Accelerator",
    recalibrated: bool = True,
) -> float:
    """`evaluate` on `test_data`, after `recalibrate` on `train_data` if `recalibrated`; the protocol says whether."""
    if recalibrated:
        recalibrate(model, batches(train_data, batch_size, seed=0))
    return evaluate(model, test_data, accelerator=accelerator)


@torch.no_grad()
def evaluate(
    model: nn.Module, data: Images | ImageSplit, *, accelerator: "Accelerator", batch_size: int = 512
) -> float:
    """Top-1 accuracy in percent over `data`, with psi as trained, the same on every process.

    Raises: ValueError if there are no images.
    """
    if not len(data):
        raise ValueError("evaluate: the data has no images")
    from .metrics import Accuracy

    metric = Accuracy()
    model = unwrap(model)
    training = model.training
    if not is_sharded_model(model):  # whose parts are where they belong
        model.to(accelerator.device)
    model.eval()
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
