"""Carry learned tables of positions from one token grid to another. Pure tensors."""

import torch.nn.functional as F
from torch import Tensor


def resize_positions(positions: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Resize learned absolute positions, bicubically as mmpretrain does.

    Args:
        positions: Positions (1, N, D) of a grid of N tokens in raster order.
        source: Rows and columns of that grid.
        target: Rows and columns of the wanted grid.

    Returns:
        Positions (1, M, D) of the M tokens of ``target``; the same tensor if the grids are equal.

    Example:
        >>> import torch
        >>> resize_positions(torch.zeros(1, 6, 8), (2, 3), (4, 5)).shape
        torch.Size([1, 20, 8])
    """
    if source == target:
        return positions
    image = positions.transpose(1, 2).unflatten(2, source)  # (1, D, rows, columns)
    return _bicubic(image, target).flatten(2).transpose(1, 2)


def resize_bias_table(table: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Resize a table of relative position biases bicubically.

    The largest offset of one grid goes to the largest of the other, so that the bias stretches with the image.

    Args:
        table: Biases ((2 * rows - 1) * (2 * columns - 1), h) of all offsets between two tokens of a grid, for each of
            h heads, offsets in raster order from the most negative ones. No rows of a class token.
        source: Rows and columns of that grid, in tokens.
        target: Rows and columns of the wanted grid, in tokens.

    Returns:
        The table of ``target``; the same tensor if the grids are equal.

    Example:
        >>> import torch
        >>> resize_bias_table(torch.zeros(3 * 5, 2), (2, 3), (4, 4)).shape
        torch.Size([49, 2])
    """
    if source == target:
        return table
    image = table.T.unflatten(1, offsets(source))[None]  # (1, h, rows, columns)
    return _bicubic(image, offsets(target))[0].flatten(1).T


def offsets(grid: tuple[int, int]) -> tuple[int, int]:
    """Count the offsets between two tokens of a grid, along each axis."""
    return 2 * grid[0] - 1, 2 * grid[1] - 1


def _bicubic(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (1, C, y, x); in float32, because not every device can in half precision."""
    return F.interpolate(image.float(), size=size, mode='bicubic', align_corners=False).to(image.dtype)
