"""Fixed two-dimensional sine-cosine positions (paper section 4.1)."""

from functools import lru_cache

import torch
from torch import Tensor

_TEMPERATURE = 10_000.0


@lru_cache(maxsize=32)
def sincos_positions(grid: tuple[int, int], embed_dims: int, device: torch.device | str = 'cpu') -> Tensor:
    """Make the position of every token of a grid, half of the channels for each axis.

    Args:
        grid: Height and width of the token grid, in tokens; N is their product.
        embed_dims: Number of channels D, a multiple of 4.
        device: Where the result lives.

    Returns:
        Positions (1, N, D), float32, tokens in raster order: sine and cosine of the column in the first half of the
        channels, of the row in the second. It is cached: do not write to it.

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
    # Made on the CPU in float64, so that every device gets the same numbers; explicitly, because the cache must not
    # keep what was made while another default device, such as meta, was in force.
    exact = dict(dtype=torch.float64, device='cpu')
    frequency = _TEMPERATURE ** -(torch.arange(embed_dims // 4, **exact) / (embed_dims // 4))
    rows, columns = torch.meshgrid(*(torch.arange(n, **exact) for n in grid), indexing='ij')
    angles = [axis.reshape(-1, 1) * frequency for axis in (columns, rows)]  # 2 x (N, D / 4)
    halves = [torch.cat([angle.sin(), angle.cos()], dim=1) for angle in angles]  # 2 x (N, D / 2)
    return torch.cat(halves, dim=1).float()[None].to(device)
