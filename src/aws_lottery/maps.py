"""Maps of signs: a tensor as a matrix, shrunk to what a screen shows, and its colors."""

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 96  # points, at most, on a side of a map


def matrix_of(value: Tensor) -> Tensor:
    """(rows, columns) of any tensor: its first dimension (output channels) goes down, all others across."""
    return value.reshape(value.shape[0], -1) if value.dim() else value.reshape(1, 1)


def binned(matrix: Tensor, rows: int, columns: int) -> Tensor:
    """(at most rows, at most columns), float: means over equal parts of a matrix."""
    size = min(rows, matrix.shape[0]), min(columns, matrix.shape[1])
    return F.adaptive_avg_pool2d(matrix.float()[None, None], size)[0, 0]


def sign_colors(value: Tensor, side: int = SIDE) -> Tensor:
    """(rows, columns, RGB), float in [0, 1], of signs of any shape, at most side x side.

    Red is +1, blue is -1 and white is pruned. The color of a point that stands for several weights is the mean of
    their colors.
    """
    matrix = matrix_of(value)
    up, down = binned(matrix > 0, side, side), binned(matrix < 0, side, side)
    return torch.stack([1 - down, 1 - up - down, 1 - up], dim=-1).clamp(0, 1)
