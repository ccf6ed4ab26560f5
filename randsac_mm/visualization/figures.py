"""What the pictures share. Panels are drawn in units of tokens, from the upper left corner: x columns, y rows."""

import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from randsac_mm.files import atomic_write

Grid = tuple[int, int]  # height and width in tokens

INK, UNKNOWN, ACCENT = '#26262e', '#e4e5ea', '#e83e6e'
DPI = 100
_MARGIN, _GAP, _LINE = 14, 8, 18  # pixels; a caption and a line of a note are _LINE high


def rank_colours(count: int) -> np.ndarray:
    """Return colours of ranks, dark blue (first) to yellow (last): (count, 3), from 0 to 1."""
    return matplotlib.colormaps['plasma'](np.linspace(0.05, 0.95, count))[:, :3]


def panel_figure(rows: int, columns: int, grid: Grid, side: int, note: str = '') -> tuple[Figure, np.ndarray]:
    """Make a figure of captioned panels (rows, columns), whose longer side has ``side`` pixels, and a note below."""
    high, wide = (side * n / max(grid) for n in grid)
    width = columns * (wide + _GAP) - _GAP + 2 * _MARGIN
    lines = textwrap.wrap(note, round(width / 6.2))
    below = _MARGIN + _GAP + _LINE * len(lines)
    height = rows * (high + _GAP + _LINE) - _GAP + _MARGIN + below
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    panel = dict(xticks=[], yticks=[], xlim=(0, grid[1]), ylim=(grid[0], 0), frame_on=False)
    edges = dict(left=_MARGIN / width, right=1 - _MARGIN / width, bottom=below / height)
    gaps = dict(top=1 - (_MARGIN + _LINE) / height, wspace=_GAP / wide, hspace=(_GAP + _LINE) / high)
    axes = figure.subplots(rows, columns, squeeze=False, subplot_kw=panel, gridspec_kw=edges | gaps)
    figure.text(_MARGIN / width, _MARGIN / height, '\n'.join(lines), size=8.5, linespacing=1.35, color=INK, va='bottom')
    return figure, axes


def show(axes: Axes, image: np.ndarray, grid: Grid, caption: str = '', **options: Any) -> None:
    """Draw an image (H, W), (H, W, 3) or (H, W, 4) over a whole panel; options are those of ``Axes.imshow``."""
    axes.imshow(image, extent=(0, grid[1], grid[0], 0), aspect='auto', **options)
    if caption:
        axes.set_title(caption, fontsize=8, pad=3, color=INK)


def show_grey(axes: Axes, image: np.ndarray, grid: Grid, caption: str) -> None:
    """Draw an image (H, W, 3), uint8, in grey over a whole panel."""
    show(axes, image.mean(-1), grid, caption, cmap='gray', vmin=0, vmax=255)


def draw_borders(axes: Axes, ids: np.ndarray, grid: Grid, color: str, width: float) -> None:
    """Draw lines wherever neighbouring tokens have different ids (N,), and around the grid; ids of -1 are outside."""
    table = np.pad(ids.reshape(grid), 1, constant_values=-1)
    lines = [((x, y - 1), (x, y)) for y, x in np.argwhere(table[:, 1:] != table[:, :-1])]
    lines += [((x - 1, y), (x, y)) for y, x in np.argwhere(table[1:] != table[:-1])]
    axes.add_collection(LineCollection(lines, colors=color, linewidths=width, capstyle='projecting', clip_on=False))


def save_figure(figure: Figure, path: str | Path, note: str = '') -> Path:
    """Write a figure; a note becomes the description in a PNG's metadata. No display is needed."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, metadata={'Description': note} if note else None)
    return Path(path)
