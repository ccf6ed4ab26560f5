"""A page of images with their nearest neighbours by features."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from randsac_mm.datasets import UnreadableImageError, read_image
from randsac_mm.datasets.images import printable
from randsac_mm.evaluation import FrozenEncoder
from randsac_mm.evaluation.knn import nearest_rows
from randsac_mm.visualization.report import data_uri, load_template

from .feature_file import read_features
from .paths import find_images

_QUERIES, _NEIGHBOURS, _SIDE = 8, 7, 128  # the last: pixels of a picture's longer side


def make_neighbour_page(
    encoder: FrozenEncoder, out: Path, manifest: dict[str, Any], queries: Sequence[str | os.PathLike] = ()
) -> str:
    """Make a page of the images in a file of :func:`embed_files` whose features are nearest to those of queries.

    Nearness is cosine similarity. Queries are files and folders; default: eight images of the file.
    """
    names, features = read_features(out)
    chosen = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, _QUERIES).astype(int))]
    chosen = [printable(file) for file in find_images(queries)] if queries else chosen
    groups = []
    for query, *found in zip(chosen, *nearest_rows(encoder.embed(chosen), features, _NEIGHBOURS + 1), strict=True):
        similarity, rows = (values.tolist() for values in found)
        others = [(names[row], value) for row, value in zip(rows, similarity, strict=True) if names[row] != query]
        groups.append((query, others[:_NEIGHBOURS]))
    return load_template('neighbours.html').render(groups=groups, about=manifest, thumbnail=_thumbnail)


def _thumbnail(name: str) -> str:
    """Return a small picture of a file, or nothing if it is not there any more."""
    try:
        picture = Image.fromarray(read_image(name))
    except UnreadableImageError:
        return ''
    picture.thumbnail((_SIDE, _SIDE))
    picture.save(png := io.BytesIO(), 'PNG')
    return data_uri(png.getvalue())
