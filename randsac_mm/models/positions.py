"""Fixed two-dimensional sine-cosine positions and their change from grid to grid (paper section 4.1)."""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate

Grid = tuple[int, int]
POSITION_TYPES = ('stretched', 'bicubic', 'extrapolated', 'trainable')  # see RandSACViT
_TEMPERATURE = 10_000.0
_LONGEST_SIDE = 512  # tokens; trained grids are looked for up to here
_ROUNDING = 1e-2  # saved positions may be bfloat16
# Compiled code holds the table instead of computing it in every step. PyTorch 2.0 has no such mark.
_constant = getattr(getattr(torch, 'compiler', None), 'assume_constant_result', lambda function: function)


@_constant  # type: ignore[untyped-decorator]
def sincos_positions(
    grid: Grid, embed_dims: int, device: torch.device | str = 'cpu', trained_grid: Grid | None = None
) -> Tensor:
    """Return the positions of all tokens of a grid, as MAE's own code computes them.

    Args:
        grid: Height and width of the token grid, in tokens; N is their product.
        embed_dims: Number of channels D, a multiple of 4.
        device: Device of the result.
        trained_grid: Grid of the pre-training, in tokens. Coordinates are stretched to it: both grids cover the whole
            image, and a token's coordinate is that of its centre. Default: ``grid``, coordinates 0, 1, 2, ...

    Returns:
        Positions (1, N, D), float32, tokens in raster order: sine and cosine of the column in the first half of the
        channels, of the row in the second. The tensor is cached: do not write to it.

    Raises:
        ValueError: If ``embed_dims`` is not a multiple of 4.
    """
    if embed_dims % 4:
        raise ValueError(f'embed_dims={embed_dims} must be a multiple of 4 for sine-cosine positions of two axes')
    return _compute(tuple(grid), embed_dims, device, tuple(trained_grid or grid))


@lru_cache(maxsize=32)
def _compute(grid: Grid, embed_dims: int, device: torch.device | str, trained_grid: Grid) -> Tensor:
    sides = zip(grid, trained_grid, strict=True)
    rows, columns = (_encode(_coordinates(_count(side), side, other), embed_dims // 2) for side, other in sides)
    halves = [columns.expand(grid[0], -1, -1), rows[:, None].expand(-1, grid[1], -1)]  # 2 x (h, w, D / 2)
    return torch.cat(halves, dim=2).flatten(0, 1).float()[None].to(device)


def _count(n: int) -> Tensor:
    # On the CPU in float64, so that every device gets the same numbers; explicitly, because the cache must not keep
    # what was computed while another default device, such as meta, was set.
    return torch.arange(n, dtype=torch.float64, device='cpu')


def _coordinates(place: Tensor, side: int, trained_side: Tensor | int) -> Tensor:
    """Return coordinates of tokens along an axis of ``side`` tokens: exactly their places if the sides are equal."""
    return (place + 0.5) * trained_side / side - 0.5


def _encode(coordinates: Tensor, dims: int) -> Tensor:
    """Return sine and cosine (n, dims) of coordinates (n,)."""
    angles = coordinates[:, None] * _TEMPERATURE ** -(_count(dims // 2) / (dims // 2))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def resize_positions(positions: Tensor, old: Grid, new: Grid) -> Tensor:
    """Interpolate positions (1, N, D) of one grid bicubically to another, as MAE, BEiT and mmpretrain do."""
    table = positions.unflatten(1, old).permute(0, 3, 1, 2).float()
    resized = interpolate(table, new, mode='bicubic', align_corners=False)
    return resized.flatten(2).transpose(1, 2).to(positions.dtype)


def adopt_positions(key: str, saved: Tensor, embed_dims: int, own: Grid, kind: str) -> tuple[Grid, Tensor]:
    """Return what a backbone makes of a checkpoint's positions.

    Args:
        key: Their name, for an error.
        saved: Positions in the checkpoint.
        embed_dims: Number of channels D.
        own: Token grid of the backbone's ``img_size``.
        kind: One of :data:`POSITION_TYPES`.

    Returns:
        Height and width of the grid that the backbone keeps, and its positions (1, N, D).

    Raises:
        ValueError: If the positions have another width, are learned ones and must not be, or are of no square grid.
    """
    found = find_grids(saved) if saved.shape[-1] == embed_dims else None
    if kind in ('stretched', 'extrapolated'):
        if found is None:
            raise ValueError(
                f'{key} of the checkpoint, shape {tuple(saved.shape)}, has no sine-cosine positions of {embed_dims} '
                "channels: set positions='bicubic' for learned ones"
            )
        return found[1], sincos_positions(found[1], embed_dims)  # computed, because saved ones may be bfloat16
    side = math.isqrt(saved.numel() // embed_dims)
    grid = found[0] if found else own if saved.shape[1:2] == (math.prod(own),) else (side, side)
    if saved.shape != (1, math.prod(grid), embed_dims):
        raise ValueError(
            f'{key} of the checkpoint, shape {tuple(saved.shape)}, has no positions of {embed_dims} channels for '
            f'{own[0]} x {own[1]} tokens or another square grid'
        )
    if kind == 'bicubic' or grid == own:
        return grid, saved
    if found:
        return own, sincos_positions(own, embed_dims, trained_grid=found[1])
    return own, resize_positions(saved, grid, own)


def find_grids(positions: Tensor) -> tuple[Grid, Grid] | None:
    """Return the grid of sine-cosine positions, and the trained grid from which they were stretched to it.

    Args:
        positions: Positions (1, N, D) of any number type.

    Returns:
        Height and width in tokens, twice; None if these are no positions of :func:`sincos_positions`.
    """
    if positions.ndim != 3 or len(positions) != 1 or positions.shape[2] % 4:
        return None
    tokens, dims = positions.shape[1:]
    saved = positions.detach().cpu().float()
    for height in (n for n in range(1, tokens + 1) if tokens % n == 0):
        grid = (height, tokens // height)
        table = saved.view(*grid, dims)
        rows, columns = _find_side(table[:, 0, dims // 2 :]), _find_side(table[0, :, : dims // 2])
        if rows and columns and _close(saved, sincos_positions(grid, dims, trained_grid=(rows, columns))):
            return grid, (rows, columns)
    return None


def _find_side(encoded: Tensor) -> int | None:
    """Return the trained side whose coordinates an axis (n, D / 2) encodes, or None."""
    side, dims = encoded.shape
    others = 1 + _count(max(side, _LONGEST_SIDE))
    last = _encode(_coordinates(_count(side)[-1], side, others), dims)  # the last token's, for every trained side
    candidates = others[(last - encoded[-1]).abs().amax(dim=1) <= _ROUNDING].int().tolist()
    tables = ((other, _encode(_coordinates(_count(side), side, other), dims)) for other in candidates)
    return next((other for other, table in tables if _close(encoded, table)), None)


def _close(saved: Tensor, computed: Tensor) -> bool:
    return torch.allclose(saved, computed.float(), rtol=0, atol=_ROUNDING)
