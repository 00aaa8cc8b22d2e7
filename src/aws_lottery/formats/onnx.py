"""ONNX: exports a held model as it is, with its pruned weights at 0. Needs `pip install aws-lottery[onnx]`."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ..evaluation import in_evaluation_mode
from ..parameters.unwrap import unwrap


def to_onnx(model: nn.Module, path: str | Path, example: Tensor) -> None:
    """Write the network in evaluation mode, on the CPU, for any batch size; input `images`, output `logits`.

    Args:
        example: a batch such as the network takes, of two or more, on the model's device.
    Raises: ModuleNotFoundError that says what to install.
    """
    require_onnx()
    model = unwrap(model)
    with in_evaluation_mode(model):
        torch.onnx.export(
            model,
            (example,),
            path,
            dynamo=True,
            external_data=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )


def require_onnx() -> None:
    """Raises: ModuleNotFoundError that says what to install; call it before any work."""
    try:
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("ONNX export needs onnx and onnxscript: pip install 'aws-lottery[onnx]'") from error
