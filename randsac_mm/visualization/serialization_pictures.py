"""Pictures of a serialization: segments coloured by rank, and the order in which an image is predicted."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.patheffects import withStroke
from PIL import Image
from torch import Tensor

from randsac_mm.files import atomic_write
from randsac_mm.segments import Serialization

from .figures import INK, UNKNOWN, Grid, draw_borders, panel_figure, rank_colours, save_figure, show, show_grey

_SIDE = 480  # pixels of a panel's longer side
_TINT = 0.62  # of the colour over the image
_SECONDS, _LAST = 7.0, 2.5  # length of an animation, about, and of its last frame


def serialize(serialization: Serialization, batch_size: int, grid: Grid, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw serializations on a token grid (height, width), on the CPU.

    Returns:
        Ranks (B, N), int64, and ids of the coarser levels of their hierarchy (B, L - 1, N), fine to coarse.
    """
    generator, device = torch.Generator(), torch.device('cpu')
    # A serialization first draws its partition: the same seed gives the partition alone.
    ids = serialization.partition(batch_size, grid, generator.manual_seed(seed), device)
    return serialization(batch_size, grid, generator.manual_seed(seed), device), ids[:, 1:]


def draw_serialization(image: np.ndarray, rank: Tensor, grid: Grid, path: str | Path, groups: Tensor) -> Path:
    """Draw an image (H, W, 3), uint8, RGB, beside its segments, coloured and numbered by rank (N,), as a PNG.

    Coarser levels (L - 1, N) of the hierarchy, see :func:`serialize`, are outlined in bold.
    """
    ranks, levels = rank.numpy(), groups.numpy()
    note = f'Colours from dark blue (0, given) to yellow ({ranks.max()}, predicted last).'
    figure, ((left, right),) = panel_figure(1, 2, grid, _SIDE, note)
    show(left, image, grid, 'image')
    name = f'{ranks.max() + 1} segments' + ''.join(f' in {len(np.unique(level))} groups' for level in levels)
    draw_segments(right, image, ranks, grid, levels, name)
    return save_figure(figure, path, note)


def draw_segments(
    axes: Axes, image: np.ndarray, ranks: np.ndarray, grid: Grid, levels: np.ndarray, caption: str
) -> None:
    """Draw a grey image with its segments (N,) coloured and numbered by rank; coarser levels (L - 1, N) in bold."""
    show_grey(axes, image, grid, caption)
    colours = rank_colours(ranks.max() + 1)[ranks].reshape(*grid, 3)
    show(axes, colours, grid, alpha=_TINT, interpolation='nearest')
    draw_borders(axes, ranks, grid, 'white', 0.8)
    for depth, level in enumerate(levels):
        draw_borders(axes, level, grid, 'white', 4 + 2 * depth)
        draw_borders(axes, level, grid, INK, 2 + 2 * depth)
    points_per_token = 72 * axes.get_window_extent().width / axes.figure.dpi / grid[1]
    size = min(14, 0.5 * points_per_token)
    for rank in range(ranks.max() + 1 if size >= 4 else 0):
        places = np.argwhere(ranks.reshape(grid) == rank)
        row, column = places[np.linalg.norm(places - places.mean(0), axis=1).argmin()] + 0.5
        style = dict(color='white', size=size, weight='bold', ha='center', va='center_baseline')
        axes.text(column, row, rank, path_effects=[withStroke(linewidth=size / 5, foreground=INK)], **style)


def animate_serialization(image: np.ndarray, rank: Tensor, grid: Grid, path: str | Path, groups: Tensor) -> Path:
    """Animate, as a GIF, the order in which an image is predicted; arguments as of :func:`draw_serialization`."""
    ranks, levels = rank.numpy(), groups.numpy()
    count = ranks.max() + 1
    frames = []
    for r in range(count + 1):
        caption = f'segment {r} of {count - 1}: predicted from all before it' if r else 'segment 0: given'
        figure, ((axes,),) = panel_figure(1, 1, grid, _SIDE)
        show(axes, image, grid, caption if r < count else 'complete')
        show(axes, veil(ranks, r).reshape(*grid, 4), grid, interpolation='nearest')
        for ids, color, width in [(ranks, 'white', 1.0), *((level, INK, 1.6) for level in levels)]:
            draw_borders(axes, np.where(ranks >= r, ids, -1), grid, color, width)
        buffer, size = FigureCanvasAgg(figure).print_to_buffer()
        frames.append(Image.frombytes('RGBA', size, buffer).convert('RGB'))
    # One palette for all frames, or colours would flicker.
    swatch = np.resize(255 * rank_colours(count), (40, frames[0].width, 3)).astype(np.uint8)
    palette = Image.fromarray(np.concatenate([swatch, *map(np.asarray, frames[:: max(1, count // 2)])])).quantize(256)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    step = min(0.7, max(0.08, _SECONDS / count))
    durations = [round(1000 * seconds) for seconds in [step] * count + [_LAST]]
    with atomic_write(path) as temporary:
        frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return Path(path)


def veil(ranks: np.ndarray, now: int) -> np.ndarray:
    """Colour tokens (N, 4) when segment ``now`` is predicted: clear for earlier ones, grey for later ones."""
    colours = np.tile(to_rgba(UNKNOWN), (len(ranks), 1))
    colours[ranks == now, :3] = rank_colours(ranks.max() + 1)[ranks[ranks == now]]
    colours[ranks < now] = 0
    return colours
