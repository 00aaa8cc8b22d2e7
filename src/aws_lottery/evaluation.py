"""Measuring a network: its accuracy, with BatchNorm's statistics made to belong to it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .data import Images, ImageSplit, batches
from .data.batches import check_images, shared
from .parameters.unwrap import unwrap
from .sharding import is_sharded_model, reshard_

if TYPE_CHECKING:
    from accelerate import Accelerator


def logits(output: Any) -> Tensor:
    """The logits (batch, classes) of a plain module or of a transformers model."""
    return output if isinstance(output, Tensor) else output.logits


@contextmanager
def in_evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module is in its own mode again afterwards, and sharded as before: one in evaluation mode may be part of a
    training model."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        model.train(modes[model])  # first, as some layers do more in it than keep the mode
        for module, training in modes.items():
            module.training = training
        reshard_(model)


@torch.no_grad()
def recalibrate(
    model: nn.Module, data: Iterable[Tensor | Sequence[Tensor] | Mapping[str, Any]], *, max_batches: int = 20
) -> None:
    """Re-estimate BatchNorm's running statistics at psi, as the plain mean over batches (cumulative average).

    AWS trains under random interpolations of psi, and transfer replaces the weights: the statistics that either
    leaves behind belong to another network. All but BatchNorm runs in evaluation mode, so psi is not interpolated.
    Every process must be given the same batches. A model without such statistics is left as it is, and so is any model
    that can't take a batch.

    Args:
        model: changed in place; only the running statistics of its BatchNorm layers are.
        data: batches, on any device: tensors, which are the model's input, sequences whose first element is that, or
            mappings of its keyword arguments.
        max_batches: how many of them are used at most.

    Raises:
        TypeError: For images that are in no batches, as `evaluate` takes them.
        ValueError: Before anything is changed, if there are none.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from aws_lottery import recalibrate
        >>> model = nn.BatchNorm1d(2)
        >>> recalibrate(model, [torch.tensor([[0.0, 4.0], [2.0, 8.0]])])
        >>> model.running_mean.tolist()
        [1.0, 6.0]
    """
    if isinstance(data, Images | ImageSplit | Tensor):
        raise TypeError(
            f"recalibrate takes batches, got {type(data).__name__}: give a loader, as "
            "aws_lottery.data.batches(data, 64, seed=0) makes one, or a list of batches"
        )
    model = unwrap(model)
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not layers:
        return
    to_see = islice(data, max_batches)
    if (first := next(to_see, None)) is None:
        raise ValueError("recalibrate: the data has no batches (is it an iterator that was used before?)")
    momenta = [layer.momentum for layer in layers]
    before = [(buffer, buffer.clone()) for layer in layers for buffer in layer.buffers(recurse=False)]
    with in_evaluation_mode(model):
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # torch's word for the cumulative average
            layer.train()
        try:
            for batch in chain([first], to_see):
                _forward(model, batch)
        except BaseException:
            for buffer, value in before:
                buffer.copy_(value)
            raise
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum


def _forward(model: nn.Module, batch: Tensor | Sequence[Tensor] | Mapping[str, Any]) -> None:
    device = next(model.parameters()).device
    if isinstance(batch, Mapping):
        model(**{name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()})
    else:
        model((batch if isinstance(batch, Tensor) else batch[0]).to(device))


def recalibrate_on_images(
    model: nn.Module, data: Images | ImageSplit, batch_size: int, *, max_batches: int = 20
) -> None:
    """`recalibrate` on training data in one order, that of seed 0, the same in every measurement."""
    recalibrate(model, batches(data, batch_size, seed=0), max_batches=max_batches)


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
        recalibrate_on_images(model, train_data, batch_size)
    return evaluate(model, test_data, accelerator=accelerator)


@torch.no_grad()
def evaluate(
    model: nn.Module, data: Images | ImageSplit, *, accelerator: "Accelerator", batch_size: int = 512
) -> float:
    """Top-1 accuracy in percent over `data`, with psi as trained, the same on every process.

    Args:
        model: in any mode, which it keeps; moved to the accelerator's device.
        data: images with labels, seen in the evaluation view.
        accelerator: whose device and processes measure.
        batch_size: changes nothing but time and memory.

    Returns:
        Percent, from 0 to 100.

    Raises:
        TypeError: For data of another type, such as a loader.
        ValueError: If there are no images.

    Example:
        >>> import torch
        >>> from accelerate import Accelerator
        >>> from torch import nn
        >>> from aws_lottery import evaluate
        >>> from aws_lottery.data import Images
        >>> data = Images(torch.eye(4), torch.tensor([0, 1, 2, 0]))  # three of four labels are the place of the 1
        >>> evaluate(nn.Identity(), data, accelerator=Accelerator(cpu=True))
        75.0
    """
    check_images(data, "data")
    if not len(data):
        raise ValueError("evaluate: the data has no images")
    from .metrics import Accuracy

    seen: list[Tensor] = []  # predictions and labels, (2, batch) each: they stay on the device until all are there
    model = unwrap(model)
    if not is_sharded_model(model):  # whose parts are where they belong
        model.to(accelerator.device)
    with shared(batches(data, batch_size), accelerator) as loader, in_evaluation_mode(model):
        for images, labels in loader:
            with accelerator.autocast():
                predictions = logits(model(images)).argmax(dim=-1)
            predictions, labels = accelerator.gather_for_metrics((predictions, labels))
            seen.append(torch.stack([predictions, labels]))
    predictions, labels = torch.cat(seen, dim=1).cpu().numpy()
    result = Accuracy().compute(predictions=predictions, references=labels)
    assert result is not None
    return result["accuracy"]
