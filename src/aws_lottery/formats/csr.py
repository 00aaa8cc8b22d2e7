"""SciPy's compressed sparse rows: one matrix for each tensor, shaped (out features, all other dimensions)."""

from collections.abc import Collection, Mapping

import torch
from scipy.sparse import csr_array
from torch import Tensor


def to_csr(weights: Mapping[str, Tensor], names: Collection[str]) -> dict[str, csr_array]:
    """The matrices of `names`, such as `mask.prunable`; bfloat16 becomes float32, without loss."""
    return {name: csr_array(_matrix(weights[name]).numpy()) for name in names}


def from_csr(matrices: Mapping[str, csr_array], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Dense tensors of these shapes. Raises: ValueError that names the matrix which has another size."""
    tensors = {}
    for name, matrix in matrices.items():
        rows, columns = matrix.shape  # type: ignore[misc]  # scipy's stubs allow None
        if (rows, rows * columns) != (shapes[name][0], torch.Size(shapes[name]).numel()):
            raise ValueError(
                f"matrix '{name}' is {rows} x {columns}, which does not fit a tensor of shape {tuple(shapes[name])}"
            )
        tensors[name] = torch.from_numpy(matrix.toarray()).view(shapes[name])
    return tensors


def _matrix(weight: Tensor) -> Tensor:
    weight = weight.detach().cpu()
    return (weight.float() if weight.dtype == torch.bfloat16 else weight).flatten(1)
