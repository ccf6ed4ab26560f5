"""Fixed two-dimensional sine-cosine positions (paper section 4.1)."""

from functools import lru_cache

import torch
from torch import Tensor

_TEMPERATURE = 10_000.0
# Compiled code holds the table instead of computing it in every step. PyTorch 2.0 has no such mark.
_constant = getattr(getattr(torch, 'compiler', None), 'assume_constant_result', lambda function: function)


@_constant  # type: ignore[untyped-decorator]
def sincos_positions(grid: tuple[int, int], embed_dims: int, device: torch.device | str = 'cpu') -> Tensor:
    """Return the positions of all tokens of a grid, as MAE's own code computes them.

    Args:
        grid: Height and width of the token grid, in tokens; N is their product.
        embed_dims: Number of channels D, a multiple of 4.
        device: Device of the result.

    Returns:
        Positions (1, N, D), float32, tokens in raster order: sine and cosine of the column in the first half of the
        channels, of the row in the second. The tensor is cached: do not write to it.

    Raises:
        ValueError: If ``embed_dims`` is not a multiple of 4.
    """
    if embed_dims % 4:
        raise ValueError(f'embed_dims={embed_dims} must be a multiple of 4 for sine-cosine positions of two axes')
    return _compute(tuple(grid), embed_dims, device)


@lru_cache(maxsize=32)
def _compute(grid: tuple[int, int], embed_dims: int, device: torch.device | str) -> Tensor:
    # On the CPU in float64, so that every device gets the same numbers; explicitly, because the cache must not keep
    # what was computed while another default device, such as meta, was set.
    def count(n: int) -> Tensor:
        return torch.arange(n, dtype=torch.float64, device='cpu')

    frequency = _TEMPERATURE ** -(count(embed_dims // 4) / (embed_dims // 4))
    rows, columns = torch.meshgrid(count(grid[0]), count(grid[1]), indexing='ij')
    angles = [axis.reshape(-1, 1) * frequency for axis in (columns, rows)]  # 2 x (N, D / 4)
    halves = [torch.cat([angle.sin(), angle.cos()], dim=1) for angle in angles]  # 2 x (N, D / 2)
    return torch.cat(halves, dim=1).float()[None].to(device)


def find_grid(positions: Tensor) -> tuple[int, int] | None:
    """Return the token grid that sine-cosine positions were computed for.

    Args:
        positions: Positions (1, N, D) of any number type.

    Returns:
        Height and width in tokens, or None if these are no positions of :func:`sincos_positions`.
    """
    if positions.ndim != 3 or len(positions) != 1 or positions.shape[2] % 4:
        return None
    tokens, dims = positions.shape[1:]
    saved = positions.detach().cpu().float()
    for height in range(1, tokens + 1):
        grid = (height, tokens // height)
        if tokens % height == 0 and torch.allclose(saved, sincos_positions(grid, dims), atol=1e-2):  # bfloat16 too
            return grid
    return None
