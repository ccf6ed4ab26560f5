"""A page of images with their nearest neighbours by features."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from randsac_mm.datasets import UnreadableImageError, read_image

from .report import data_uri

_SIDE = 128  # pixels of a picture's longer side, at most


def make_neighbour_page(groups: Sequence[tuple[str, Sequence[tuple[str, float]]]], about: dict[str, Any]) -> str:
    """Make a page of queries, each with names and similarities of its neighbours; pictures are inside of it.

    Args:
        groups: From :func:`randsac_mm.inference.find_neighbours`.
        about: The manifest of the features.

    Returns:
        The HTML document.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return page.get_template('neighbours.html').render(groups=groups, about=about, thumbnail=_thumbnail)


def _thumbnail(name: str) -> str:
    """Return a small picture of a file, or nothing if it is not there any more."""
    try:
        picture = Image.fromarray(read_image(name))
    except UnreadableImageError:
        return ''
    picture.thumbnail((_SIDE, _SIDE))
    png = io.BytesIO()
    picture.save(png, 'PNG')
    return data_uri(png.getvalue())
