"""Pictures of a serialization: segments coloured by rank, and the order in which an image is predicted."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from randsac_mm.segments import Serialization

from .canvas import (
    INK,
    PAPER,
    UNKNOWN,
    Grid,
    beside,
    captioned,
    cell_size,
    enlarge,
    font,
    outline,
    per_pixel,
    rank_colours,
    save,
    stacked,
    write_centred,
)

_SIDE = 480  # pixels of a panel's longer side
_TINT = 0.62  # of the colour over the image
_SECONDS = 7.0  # an animation's length, about


class Serialized(NamedTuple):
    """Hold serializations with the groups that they came from.

    Attributes:
        rank: Ranks (B, N), int64.
        groups: Ids of the coarser levels of the hierarchy (B, L - 1, N), fine to coarse; L - 1 may be 0.
    """

    rank: Tensor
    groups: Tensor


def serialize(serialization: Serialization, batch_size: int, grid: Grid, seed: int = 0) -> Serialized:
    """Draw serializations together with their hierarchy, on the CPU.

    Args:
        serialization: What to draw from.
        batch_size: Number of images B.
        grid: Height and width of the token grid.
        seed: Of the random numbers.

    Returns:
        Ranks and groups.
    """
    device = torch.device('cpu')
    # A serialization first draws its partition: the same seed gives the partition alone.
    ids = serialization.partition(batch_size, grid, torch.Generator().manual_seed(seed), device)
    rank = serialization(batch_size, grid, torch.Generator().manual_seed(seed), device)
    return Serialized(rank, ids[:, 1:])


def draw_serialization(
    image: np.ndarray, rank: Tensor, grid: Grid, path: str | Path, groups: Tensor | None = None
) -> Path:
    """Draw an image beside its segments, coloured and numbered by rank.

    Args:
        image: Array (H, W, 3), uint8, RGB.
        rank: The serialization (N,).
        grid: Height and width of the token grid.
        path: Where the PNG goes.
        groups: Ids of coarser levels (L - 1, N), outlined in bold; see :func:`serialize`.

    Returns:
        The path.

    Raises:
        ValueError: If image, rank and grid do not fit each other.
    """
    ranks, levels = _check(image, rank, grid, groups)
    cell = cell_size(grid, _SIDE)
    count = int(ranks.max()) + 1
    what = f'{count} segments' + ''.join(f' in {len(np.unique(level))} groups' for level in levels)
    row = beside(
        [
            captioned(enlarge(image, grid, cell), 'image', 17),
            captioned(serialization_panel(image, ranks, grid, cell, levels), what, 17),
        ],
        gap=16,
    )
    return save(stacked([row, _legend(count, row.width)]), path)


def serialization_panel(
    image: np.ndarray, ranks: np.ndarray, grid: Grid, cell: int, levels: np.ndarray | None = None, numbers: bool = True
) -> np.ndarray:
    """Colour the segments of an image by rank.

    Args:
        image: Array (H, W, 3), uint8, RGB.
        ranks: The serialization (N,).
        grid: Height and width of the token grid.
        cell: Pixels per token.
        levels: Ids of coarser levels (L - 1, N), to be outlined.
        numbers: Whether to write ranks on the segments.

    Returns:
        The panel, an array (grid height * cell, grid width * cell, 3), uint8.
    """
    colours = rank_colours(int(ranks.max()) + 1)[ranks]
    # Over a grey picture the colours stay those of the legend.
    grey = enlarge(image, grid, cell).mean(-1, keepdims=True)
    panel = (1 - _TINT) * grey + _TINT * per_pixel(colours, grid, cell)
    panel = outline(panel.round().astype(np.uint8), ranks, grid, PAPER, min(max(1, cell // 24), 3))
    for depth, level in enumerate(levels if levels is not None else ()):
        panel = outline(panel, level, grid, PAPER, min(max(5, cell // 5), 8) + 4 * depth)
        panel = outline(panel, level, grid, INK, min(max(3, cell // 9), 5) + 4 * depth)
    if not numbers:
        return panel
    picture = Image.fromarray(panel)
    for rank, y, x, tokens in _islands(ranks.reshape(grid)):
        size = round(min(cell * 0.5 * min(tokens, 4) ** 0.5, 34))
        if size >= 7:
            write_centred(picture, ((x + 0.5) * cell, (y + 0.5) * cell), str(rank), size, PAPER)
    return np.asarray(picture)


def animate_serialization(
    image: np.ndarray, rank: Tensor, grid: Grid, path: str | Path, groups: Tensor | None = None
) -> Path:
    """Animate the order in which an image is predicted: coloured is what is predicted now, from what is visible.

    Args:
        image: Array (H, W, 3), uint8, RGB.
        rank: The serialization (N,).
        grid: Height and width of the token grid.
        path: Where the GIF goes.
        groups: Ids of coarser levels (L - 1, N), outlined in bold; see :func:`serialize`.

    Returns:
        The path.

    Raises:
        ValueError: If image, rank and grid do not fit each other.
    """
    ranks, levels = _check(image, rank, grid, groups)
    cell = cell_size(grid, _SIDE)
    count = int(ranks.max()) + 1
    large = enlarge(image, grid, cell)
    now = [f'segment {r} of {count - 1}: predicted from all before it' for r in range(count)]
    now[0] = 'segment 0: given, nothing to predict it from'
    frames = []
    for r in range(count + 1):
        panel = _moment(large, ranks, grid, levels, r)
        frames.append(stacked([captioned(panel, now[r] if r < count else 'complete', 17)], margin=8))
    # One palette for all frames, or colours would flicker. It comes from a frame with many colours and the whole image.
    both = beside([frames[count // 2], frames[-1], _swatch(rank_colours(count), frames[0].height)], gap=0)
    palette = both.quantize(256)
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    step = int(1000 * min(0.7, max(0.08, _SECONDS / count)))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=others, duration=[step] * count + [2500], loop=0, disposal=1)
    return path


def _moment(large: np.ndarray, ranks: np.ndarray, grid: Grid, levels: np.ndarray, r: int) -> np.ndarray:
    """Draw what is known when segment ``r`` is about to be predicted, without any lines inside of that."""
    cell = large.shape[0] // grid[0]
    place = per_pixel(ranks, grid, cell)[..., None]
    colour = rank_colours(int(ranks.max()) + 1)[min(r, int(ranks.max()))]
    panel = np.where(place == r, colour, np.array(UNKNOWN, np.uint8))
    panel = outline(panel, ranks, grid, PAPER, min(max(1, cell // 20), 4))
    for depth, level in enumerate(levels):
        panel = outline(panel, level, grid, INK, min(max(2, cell // 14), 4) + 2 * depth)
    return np.where(place < r, large, panel)


def _swatch(colours: np.ndarray, height: int) -> Image.Image:
    return Image.fromarray(np.broadcast_to(colours.repeat(2, axis=0)[None], (height, 2 * len(colours), 3)).copy())


def _legend(count: int, width: int) -> Image.Image:
    """Draw the colours from the first rank to the last."""
    text, height = font(15), 26
    first, last = '0, given', f'{count - 1}, predicted last'
    begin, end = int(text.getlength(first)) + 12, width - int(text.getlength(last)) - 12
    picture = Image.new('RGB', (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((0, height / 2), first, fill=INK, font=text, anchor='lm')
    draw.text((width, height / 2), last, fill=INK, font=text, anchor='rm')
    shade = (1 - _TINT) * 150 + _TINT * rank_colours(count).astype(float)
    edges = np.linspace(begin, end, count + 1).round().astype(int)
    for left, right, colour in zip(edges[:-1], edges[1:], shade.astype(int).tolist(), strict=True):
        draw.rectangle((left, 4, right - (2 if right - left > 6 else 1), height - 5), fill=tuple(colour))
    return picture


def _islands(ranks: np.ndarray) -> list[tuple[int, float, float, int]]:
    """Find where to write the number of every connected part of a segment.

    Args:
        ranks: Ranks on the grid (h, w).

    Returns:
        For each part its rank, the row and column of its number, in tokens, and how many tokens it has.
    """
    seen = np.zeros(ranks.shape, bool)
    found = []
    for start in zip(*np.nonzero(np.ones_like(ranks)), strict=True):
        if seen[start]:
            continue
        seen[start] = True
        part = [start]
        for y, x in part:  # grows while it is read
            for place in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= place[0] < ranks.shape[0] and 0 <= place[1] < ranks.shape[1]
                if inside and not seen[place] and ranks[place] == ranks[start]:
                    seen[place] = True
                    part.append(place)
        points = np.array(part, float)
        centre = points.mean(0)
        nearest = points[np.square(points - centre).sum(1).argmin()]
        # The centre of a bent part may lie outside of it.
        y, x = centre if np.abs(nearest - centre).max() <= 0.5 else nearest
        found.append((int(ranks[start]), y, x, len(part)))
    return found


def _check(image: np.ndarray, rank: Tensor, grid: Grid, groups: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    tokens = grid[0] * grid[1]
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f'image has shape {image.shape} and type {image.dtype}, but must be (H, W, 3) of uint8')
    if tuple(rank.shape) != (tokens,):
        raise ValueError(f'rank has shape {tuple(rank.shape)}, but a grid of {grid[0]} x {grid[1]} needs ({tokens},)')
    levels = torch.empty(0, tokens, dtype=torch.int64) if groups is None else groups
    if levels.ndim != 2 or levels.shape[1] != tokens:
        raise ValueError(f'groups have shape {tuple(levels.shape)}, but must be (levels, {tokens})')
    return rank.cpu().numpy(), levels.cpu().numpy()
