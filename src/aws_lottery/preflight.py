"""What would fail hours into a run is looked at before its first step."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .data import Images, ImageSplit
from .data.batches import check_images
from .evaluation import in_evaluation_mode, logits
from .parameters.unwrap import unwrap
from .random_states import torch_aside

if TYPE_CHECKING:
    from accelerate import Accelerator


def check_fit(model: nn.Module, data: Images | ImageSplit, accelerator: "Accelerator", *, what: str) -> None:
    """Whether `model`, on the accelerator's device, takes the images of `data` and has an output for each label.

    The model stays as it is, and so do the random states.

    Args:
        what: name of the data in messages.
    Raises: TypeError if `data` is neither; ValueError if there are no images, the model can't take the first, or a
        label is not one of its classes.
    """
    check_images(data, what)
    if not len(data):
        raise ValueError(f"{what} has no images")
    labels = data.labels if isinstance(data, ImageSplit) else data.tensors[1]
    if labels.dtype not in (torch.int64, torch.uint8) or labels.ndim != 1:
        raise ValueError(f"{what}: labels are {labels.dtype} of shape {tuple(labels.shape)}, expected int64 of (N,)")
    classes = _outputs(model, data, accelerator, what)
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest < 0 or largest >= classes:
        raise ValueError(
            f"{what}: labels go from {smallest} to {largest}, the model has {classes} outputs, for 0 to {classes - 1}; "
            "make the model for as many classes as the data has"
        )


@torch.no_grad()
def _outputs(model: nn.Module, data: Images | ImageSplit, accelerator: "Accelerator", what: str) -> int:
    model = unwrap(model)
    image = _first(data).to(accelerator.device)
    try:
        with in_evaluation_mode(model), torch_aside(), accelerator.autocast():
            output = logits(model(image))
    except RuntimeError as error:
        raise ValueError(f"{what}: the model can't take an image of shape {tuple(image.shape[1:])}: {error}") from error
    if output.ndim != 2:
        raise ValueError(f"{what}: the model gives {tuple(output.shape)} for an image, expected (1, classes)")
    return output.shape[1]


def _first(data: Images | ImageSplit) -> Tensor:
    if isinstance(data, ImageSplit):
        return data.__getitems__([(0, ())])[0].to("cpu")
    return data.__getitems__([0])[0]
