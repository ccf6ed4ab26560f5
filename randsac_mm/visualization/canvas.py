"""What all pictures share: colours of ranks, enlarged images, outlines of segments, rows of captioned panels.

Images are arrays (H, W, 3) of uint8, in RGB. A panel shows every token as ``cell`` x ``cell`` pixels.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

Grid = tuple[int, int]
Colour = tuple[int, int, int]

INK, PAPER, UNKNOWN, ACCENT = (38, 38, 46), (255, 255, 255), (228, 229, 234), (232, 62, 110)
_SMALL = 64  # images up to this many pixels wide are enlarged without blur
_TINT = 0.7  # of a heat map over its image


@lru_cache(maxsize=32)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load the font that ships with matplotlib, so that pictures look alike everywhere."""
    name = 'DejaVuSans-Bold.ttf' if bold else 'DejaVuSans.ttf'
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), 'fonts', 'ttf', name)), size)


def rank_colours(count: int) -> np.ndarray:
    """Give one colour for each of ``count`` ranks, from dark blue (first) to yellow (last): (count, 3), uint8."""
    places = np.linspace(0.05, 0.95, count) if count > 1 else np.array([0.5])
    return (matplotlib.colormaps['plasma'](places)[:, :3] * 255).round().astype(np.uint8)


def cell_size(grid: Grid, side: int) -> int:
    """Choose how many pixels a token gets in a panel whose longer side is about ``side`` pixels."""
    return max(3, round(side / max(grid)))


def enlarge(image: np.ndarray, grid: Grid, cell: int) -> np.ndarray:
    """Resize an image to its panel: small ones in sharp squares, photographs smoothly."""
    size = (grid[1] * cell, grid[0] * cell)
    method = Image.Resampling.NEAREST if image.shape[1] <= _SMALL else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize(size, method))


def per_pixel(tokens: np.ndarray, grid: Grid, cell: int) -> np.ndarray:
    """Spread values of tokens (N, ...) over the pixels of a panel (H, W, ...)."""
    return tokens.reshape(*grid, *tokens.shape[1:]).repeat(cell, axis=0).repeat(cell, axis=1)


def heat(image: np.ndarray, values: np.ndarray, grid: Grid, cell: int) -> np.ndarray:
    """Lay values of tokens over a grey image, from dark (0) to bright (1).

    Args:
        image: Array (H, W, 3), uint8, RGB.
        values: One number for each token (N,), from 0 to 1.
        grid: Height and width of the token grid.
        cell: Pixels per token.

    Returns:
        A panel.
    """
    colours = matplotlib.colormaps['inferno'](np.clip(values, 0, 1))[:, :3] * 255
    grey = enlarge(image, grid, cell).mean(-1, keepdims=True)
    return (_TINT * per_pixel(colours, grid, cell) + (1 - _TINT) * grey).round().astype(np.uint8)


def outline(image: np.ndarray, ids: np.ndarray, grid: Grid, colour: Colour, width: int) -> np.ndarray:
    """Draw lines wherever neighbouring tokens have different ids.

    Args:
        image: A panel.
        ids: One number per token (N,).
        grid: Height and width of the token grid.
        colour: Of the lines.
        width: Of the lines, in pixels.

    Returns:
        A new panel.
    """
    picture = Image.fromarray(image)
    draw, cell, table = ImageDraw.Draw(picture), image.shape[0] // grid[0], ids.reshape(grid)
    low, high = (width - 1) // 2, width // 2

    def bar(x0: int, y0: int, x1: int, y1: int) -> None:
        draw.rectangle((x0 - low - 1, y0 - low - 1, x1 + high, y1 + high), fill=colour)

    for y, x in zip(*np.nonzero(table[:, 1:] != table[:, :-1]), strict=True):
        bar((x + 1) * cell, y * cell, (x + 1) * cell, (y + 1) * cell)
    for y, x in zip(*np.nonzero(table[1:] != table[:-1]), strict=True):
        bar(x * cell, (y + 1) * cell, (x + 1) * cell, (y + 1) * cell)
    return np.asarray(picture)


def frame(image: np.ndarray, inside: np.ndarray, colour: Colour, width: int) -> np.ndarray:
    """Draw a line around a region, on its inner side, also where it meets the edge of the image.

    Args:
        image: A panel.
        inside: The region (H, W), bool.
        colour: Of the line.
        width: Of the line, in pixels.

    Returns:
        A new panel.
    """
    height, across = inside.shape
    padded = np.pad(inside, width)
    core = inside.copy()
    for dy in range(-width, width + 1):
        for dx in range(-width, width + 1):
            core &= padded[width + dy : width + dy + height, width + dx : width + dx + across]
    return np.where((inside & ~core)[..., None], np.array(colour, np.uint8), image)


def write_centred(picture: Image.Image, centre: tuple[float, float], text: str, size: int, fill: Colour) -> None:
    """Write bold text around a point, with a thin rim in the opposite brightness so that it reads on anything."""
    rim = (20, 20, 30) if sum(fill) > 380 else (255, 255, 255)
    ImageDraw.Draw(picture).text(
        centre,
        text,
        fill=fill,
        font=font(size, bold=True),
        anchor='mm',
        stroke_width=max(1, size // 9),
        stroke_fill=rim,
    )


def captioned(panel: np.ndarray, caption: str, size: int) -> Image.Image:
    """Write a caption above a panel, shrunk if it is wider than the panel."""
    height, width = panel.shape[:2]
    while size > 7 and font(size).getlength(caption) > width:
        size -= 1
    bar = round(size * 1.7)
    picture = Image.new('RGB', (max(width, int(font(size).getlength(caption)) + 1), height + bar), PAPER)
    ImageDraw.Draw(picture).text((picture.width / 2, bar / 2), caption, fill=INK, font=font(size), anchor='mm')
    picture.paste(Image.fromarray(panel), ((picture.width - width) // 2, bar))
    return picture


def beside(pictures: Sequence[Image.Image], gap: int = 12) -> Image.Image:
    """Put pictures side by side, bottoms aligned."""
    height = max(p.height for p in pictures)
    row = Image.new('RGB', (sum(p.width for p in pictures) + gap * (len(pictures) - 1), height), PAPER)
    x = 0
    for picture in pictures:
        row.paste(picture, (x, height - picture.height))
        x += picture.width + gap
    return row


def stacked(pictures: Sequence[Image.Image], gap: int = 10, margin: int = 14) -> Image.Image:
    """Put pictures below each other, left-aligned, on a sheet with a margin."""
    width = max(p.width for p in pictures)
    height = sum(p.height for p in pictures) + gap * (len(pictures) - 1)
    sheet = Image.new('RGB', (width + 2 * margin, height + 2 * margin), PAPER)
    y = margin
    for picture in pictures:
        sheet.paste(picture, (margin, y))
        y += picture.height + gap
    return sheet


def paragraph(text: str, width: int, size: int) -> Image.Image:
    """Write text in lines of at most ``width`` pixels."""
    lines = ['']
    for word in text.split():
        longer = f'{lines[-1]} {word}'.strip()
        if lines[-1] and font(size).getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    step = round(size * 1.45)
    picture = Image.new('RGB', (width, step * len(lines)), PAPER)
    for i, line in enumerate(lines):
        ImageDraw.Draw(picture).text((0, i * step), line, fill=INK, font=font(size))
    return picture


def save(picture: Image.Image, path: str | Path) -> Path:
    """Write a picture, making its folder if need be; no reader ever sees half of it."""
    with replacing(path) as partial:
        picture.save(partial)
    return Path(path)


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a matplotlib figure, as :func:`save` does; no display is needed."""
    with replacing(path) as partial:
        figure.savefig(partial)
    return Path(path)


def save_json(result: dict, path: str | Path) -> Path:
    """Write figures as JSON, as :func:`save` does."""
    text = json.dumps(result, indent=2, allow_nan=False) + '\n'
    with replacing(path) as partial:
        partial.write_text(text)
    return Path(path)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``, which takes that name once it is written without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.{path.stem}.partial-{os.getpid()}{path.suffix}')
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
