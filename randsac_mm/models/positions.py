"""Fixed two-dimensional sine-cosine positions (paper section 4.1)."""

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

AxisOrder = Literal['columns', 'rows']
_TEMPERATURE = 10_000.0
# Compiled code holds the table instead of making it in every step. PyTorch 2.0 has no such mark.
_constant = getattr(getattr(torch, 'compiler', None), 'assume_constant_result', lambda function: function)


@_constant
def sincos_positions(
    grid: tuple[int, int],
    embed_dims: int,
    device: torch.device | str = 'cpu',
    first: AxisOrder = 'columns',
) -> Tensor:
    """Make the position of every token of a grid, half of the channels for each axis.

    Args:
        grid: Height and width of the token grid, in tokens; N is their product.
        embed_dims: Number of channels D, a multiple of 4.
        device: Where the result lives.
        first: Which axis has the first half of the channels. ``'columns'`` in MAE's own code and here, ``'rows'`` in
            MoCo v3's and in everything that mmpretrain pre-trains.

    Returns:
        Positions (1, N, D), float32, tokens in raster order: sine and cosine of the column in the first half of the
        channels, of the row in the second (or the other way round). It is cached: do not write to it.

    Raises:
        ValueError: If ``embed_dims`` is not a multiple of 4.

    Example:
        >>> sincos_positions((2, 3), 8).shape
        torch.Size([1, 6, 8])
    """
    if embed_dims % 4:
        raise ValueError(
            f'embed_dims={embed_dims} must be a multiple of 4: sine and cosine of the two axes share the channels'
        )
    return _make(tuple(grid), embed_dims, device, first)


@lru_cache(maxsize=32)
def _make(grid: tuple[int, int], embed_dims: int, device: torch.device | str, first: AxisOrder) -> Tensor:
    # Made on the CPU in float64, so that every device gets the same numbers; explicitly, because the cache must not
    # keep what was made while another default device, such as meta, was in force.
    exact = dict(dtype=torch.float64, device='cpu')
    frequency = _TEMPERATURE ** -(torch.arange(embed_dims // 4, **exact) / (embed_dims // 4))
    rows, columns = torch.meshgrid(*(torch.arange(n, **exact) for n in grid), indexing='ij')
    axes = (columns, rows) if first == 'columns' else (rows, columns)
    angles = [axis.reshape(-1, 1) * frequency for axis in axes]  # 2 x (N, D / 4)
    halves = [torch.cat([angle.sin(), angle.cos()], dim=1) for angle in angles]  # 2 x (N, D / 2)
    return torch.cat(halves, dim=1).float()[None].to(device)


def find_first_axis(positions: Tensor, first: AxisOrder) -> AxisOrder | None:
    """Tell whether positions are fixed sine-cosine ones of any grid, and which axis has the first half of the channels.

    Args:
        positions: Positions (1, N, D) in any number type; other shapes are accepted and are no fixed positions.
        first: The axis to try first; both fit where the grid is a single row or column.

    Returns:
        The axis, or None if the positions are not fixed ones.

    Example:
        >>> find_first_axis(sincos_positions((2, 3), 8), 'rows'), find_first_axis(torch.zeros(1, 6, 8), 'rows')
        ('columns', None)
    """
    if positions.ndim != 3 or len(positions) != 1 or positions.shape[2] % 4:
        return None
    tokens, dims = positions.shape[1:]
    saved = positions.detach().cpu().float()
    for axis in (first, 'rows' if first == 'columns' else 'columns'):
        for height in range(1, tokens + 1):
            if tokens % height == 0:
                made = sincos_positions((height, tokens // height), dims, first=axis)
                if torch.allclose(saved, made, atol=1e-2):  # half precision included
                    return axis
    return None
