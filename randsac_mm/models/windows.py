"""Cut token grids into windows that attend only inside themselves, as ViTDet does.

Windows are squares of S x S tokens without overlap, from the top left. Where they do not divide the grid, the last ones
reach over the right and bottom edge; a mask hides the padding there from every token.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def window_counts(grid: tuple[int, int], size: int) -> tuple[int, int]:
    """Count the windows that cover a grid, down and across; the last may reach over the edge.

    Example:
        >>> window_counts((4, 9), 3)
        (2, 3)
    """
    return math.ceil(grid[0] / size), math.ceil(grid[1] / size)


def partition(x: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Cut tokens into windows.

    Args:
        x: Tokens (B, N, D) of a grid, in raster order.
        grid: Rows and columns of tokens.
        size: Side S of a window, in tokens.

    Returns:
        Tokens (B * W, S * S, D) of all W windows of each image, in raster order, padded with zeros.
    """
    down, across = window_counts(grid, size)
    x = x.unflatten(1, grid)
    x = F.pad(x, (0, 0, 0, across * size - grid[1], 0, down * size - grid[0]))
    x = x.unflatten(2, (across, size)).unflatten(1, (down, size))  # (B, down, S, across, S, D)
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def merge(windows: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Undo :func:`partition`: put windows (B * W, S * S, D) back as tokens (B, N, D), without the padding."""
    down, across = window_counts(grid, size)
    x = windows.unflatten(0, (-1, down, across)).unflatten(3, (size, size))  # (B, down, across, S, S, D)
    x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, : grid[0], : grid[1]].flatten(1, 2)


def padding_bias(grid: tuple[int, int], size: int, batch_size: int, like: Tensor) -> Tensor | None:
    """Make the bias that hides padded tokens from all others.

    Args:
        grid: Rows and columns of tokens.
        size: Side S of a window, in tokens.
        batch_size: Number of images B.
        like: A tensor of the wanted device and number type.

    Returns:
        Bias (B * W, 1, 1, S * S) over the keys of each window: 0 for tokens, minus infinity for padding. None if the
        windows divide the grid.
    """
    down, across = window_counts(grid, size)
    if (down * size, across * size) == grid:
        return None
    hidden = torch.full((down * size, across * size), -torch.inf, dtype=like.dtype, device=like.device)
    hidden[: grid[0], : grid[1]] = 0
    windows = partition(hidden.flatten()[None, :, None], (down * size, across * size), size)  # (W, S * S, 1)
    return windows.transpose(1, 2)[:, None].repeat(batch_size, 1, 1, 1)
