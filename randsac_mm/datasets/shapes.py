"""Coloured shapes on textured ground in the formats of ADE20K and COCO: data for smoke runs, made in a second."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

MARKER = 'shapes.json'
_SHORTEST = 32
_CORNERS = {'ellipse': 24, 'rectangle': 4, 'triangle': 3}
# Colour, ADE20K's label and COCO's category of each shape.
_KINDS = {
    'ellipse': ((205, 55, 50), 120, 37),  # ball, sports ball
    'rectangle': ((50, 80, 210), 42, 33),  # box, suitcase
    'triangle': ((230, 190, 40), 115, 38),  # tent, kite
}
# ADE20K's label of each ground, and its colour.
_GROUNDS = {1: (150, 140, 130), 3: (130, 180, 225), 10: (70, 140, 60)}  # wall, sky, grass
_UNLABELLED = 0


class Shape(NamedTuple):
    """One object of a picture."""

    kind: str
    corners: np.ndarray  # (n, 2), x and y in pixels, pixel centres at .5
    mask: np.ndarray  # (H, W) bool


class Picture(NamedTuple):
    """One image and what is on it."""

    pixels: np.ndarray  # (H, W, 3) uint8, RGB
    ground: int  # ADE20K's label
    shapes: list[Shape]
    crowd: np.ndarray | None  # (H, W) bool, many small ellipses that are not told apart


def make_shapes(out: str | Path, images: int = 8, val: int = 4, size: Sequence[int] = (96, 128), seed: int = 0) -> Path:
    """Write the same pictures as two small data sets, ``<out>/ade20k`` and ``<out>/coco``.

    mmseg's ``ADE20KDataset`` and mmdet's ``CocoDataset`` read them with their default classes. Heights and widths vary
    between 60 % and 100 % of ``size``. Shapes do not overlap. Every fourth picture has none; the second of every four
    has a crowd besides: one label in ADE20K's format, an ``iscrowd`` annotation in COCO's. The pixels around each shape
    are unlabelled in ADE20K's format.

    The folder appears under its name only when it is complete. One that an earlier call wrote is replaced.

    Args:
        out: The folder to write.
        images: Pictures to train on, at least 1.
        val: Pictures to validate on, at least 1.
        size: Greatest height and width in pixels, at least 32 each.
        seed: Pictures depend on it and on nothing else.

    Returns:
        ``out`` as a path.

    Raises:
        ValueError: If a number is too small.
        FileExistsError: If ``out`` exists and holds something that this function did not write.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     out = make_shapes(f'{folder}/shapes', images=2, val=1)
        ...     sorted(path.name for path in (out / 'ade20k' / 'images' / 'training').iterdir())
        ['000000.jpg', '000001.jpg']
    """
    for name, count in (('images', images), ('val', val)):
        if count < 1:
            raise ValueError(f'{name}={count} must be at least 1')
    if len(size) != 2 or min(size) < _SHORTEST:
        raise ValueError(f'size={tuple(size)} must be a height and a width of at least {_SHORTEST} pixels')
    if seed < 0:
        raise ValueError(f'seed={seed} must not be negative')
    out = Path(out)
    _check_replaceable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f'.{out.name}.{os.getpid()}.partial')
    old = out.with_name(f'.{out.name}.{os.getpid()}.old')
    try:
        partial.mkdir()
        for number, (split, count) in enumerate({'train': images, 'val': val}.items()):
            _write_split(partial, split, [_draw(seed, number, index, size) for index in range(count)])
        arguments = dict(images=images, val=val, size=list(size), seed=seed)
        _write_json(partial / MARKER, dict(arguments, files=_files(partial)))
        if out.exists():
            out.rename(old)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return out


# ---- pictures -------------------------------------------------------------------------------------------------------


def _draw(seed: int, split: int, index: int, largest: Sequence[int]) -> Picture:
    """Draw one picture; each has random numbers of its own, so that more pictures do not change the first ones."""
    rng = np.random.default_rng([seed, split, index])
    size = tuple(int(rng.integers(max(_SHORTEST, side * 6 // 10), side + 1)) for side in largest)
    ground = int(rng.choice(list(_GROUNDS)))
    pixels = _texture(rng, size, _GROUNDS[ground])
    shapes: list[Shape] = []
    if index % 4 != 3:
        for _ in range(int(rng.integers(1, 5))):
            shapes += _place(rng, size, [shape.mask for shape in shapes])
    for shape in shapes:
        pixels[shape.mask] = _texture(rng, size, _KINDS[shape.kind][0])[shape.mask]
    crowd = None
    if index % 4 == 1:
        crowd = _crowd(rng, size, [shape.mask for shape in shapes])
        pixels[crowd] = _texture(rng, size, _KINDS['ellipse'][0])[crowd]
    return Picture(pixels, ground, shapes, crowd)


def _texture(rng: np.random.Generator, size: tuple[int, int], colour: tuple[int, int, int]) -> np.ndarray:
    """Fill (H, W, 3) with a colour that varies slowly and, less, from pixel to pixel."""
    coarse = rng.normal(0, 22, (-(-size[0] // 8) + 1, -(-size[1] // 8) + 1)).astype(np.float32)
    slow = np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BILINEAR))[..., None]
    shade = np.asarray(colour) + rng.normal(0, 8, 3) + slow + rng.normal(0, 5, (*size, 3))
    return shade.clip(0, 255).astype(np.uint8)


def _place(rng: np.random.Generator, size: tuple[int, int], taken: list[np.ndarray]) -> list[Shape]:
    """Try to place a shape that keeps two pixels away from those already there; the first one always fits."""
    short = min(size)
    for _ in range(10):
        kind = str(rng.choice(list(_KINDS)))
        corners = _outline(rng, kind, rng.uniform(short / 10, short / 3.5))
        # Two decimals: the numbers in the file are the numbers that were drawn.
        corners = np.round(corners + rng.uniform(-corners.min(0), size[::-1] - corners.max(0)), 2)
        mask = _inside(corners, size)
        if not any((_grow(_grow(mask)) & other).any() for other in taken):
            return [Shape(kind, corners, mask)]
    return []


def _outline(rng: np.random.Generator, kind: str, radius: float) -> np.ndarray:
    """Make the corners (n, 2) of a convex shape around the origin, turned at random."""
    n = _CORNERS[kind]
    angles = 2 * np.pi * np.arange(n) / n
    stretch = rng.uniform(0.6, 1.0)
    turn = rng.uniform(0, 2 * np.pi)
    if kind == 'rectangle':
        angles = angles + np.pi / 4
    x, y = radius * np.cos(angles), radius * stretch * np.sin(angles)
    return np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=1)


def _inside(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Mark the pixels (H, W) whose centres lie inside a convex polygon."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    mask = np.ones(size, dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        mask &= (x1 - x0) * (y - y0) >= (y1 - y0) * (x - x0)
    return mask


def _grow(mask: np.ndarray) -> np.ndarray:
    """Add the neighbours above, below, left and right."""
    padded = np.pad(mask, 1)
    return mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]


def _crowd(rng: np.random.Generator, size: tuple[int, int], taken: list[np.ndarray]) -> np.ndarray:
    """Scatter small ellipses where no shape is; mark their pixels (H, W)."""
    free = ~np.any([_grow(_grow(mask)) for mask in taken], axis=0)
    crowd = np.zeros(size, dtype=bool)
    for _ in range(12):
        dot = _outline(rng, 'ellipse', 2.5) + rng.uniform((3, 3), (size[1] - 3, size[0] - 3))
        crowd |= _inside(dot, size)
    return crowd & free


# ---- files ----------------------------------------------------------------------------------------------------------


def _write_split(folder: Path, split: str, pictures: list[Picture]) -> None:
    """Write the pictures of ``'train'`` or ``'val'`` in both formats."""
    ade_split = {'train': 'training', 'val': 'validation'}[split]
    ade_images = folder / 'ade20k' / 'images' / ade_split
    ade_labels = folder / 'ade20k' / 'annotations' / ade_split
    coco_images = folder / 'coco' / f'{split}2017'
    for new in (ade_images, ade_labels, coco_images, folder / 'coco' / 'annotations'):
        new.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, picture in enumerate(pictures):
        name = f'{index:06d}.jpg'
        Image.fromarray(picture.pixels).save(ade_images / name, quality=95)
        shutil.copyfile(ade_images / name, coco_images / name)
        Image.fromarray(_labels(picture)).save(ade_labels / f'{index:06d}.png')
        height, width = picture.pixels.shape[:2]
        images.append(dict(id=index + 1, file_name=name, height=height, width=width))
        for annotation in _annotations(picture):
            annotations.append(dict(annotation, id=len(annotations) + 1, image_id=index + 1))
    content = dict(
        info=dict(description='Coloured shapes, generated by randsac_mm'),
        images=images,
        annotations=annotations,
        categories=_categories(),
    )
    _write_json(folder / 'coco' / 'annotations' / f'instances_{split}2017.json', content)


def _labels(picture: Picture) -> np.ndarray:
    """Make ADE20K's label map (H, W), uint8: 0 is unlabelled, 1 to 150 are classes."""
    labels = np.full(picture.pixels.shape[:2], picture.ground, dtype=np.uint8)
    for shape in picture.shapes:
        labels[_grow(shape.mask)] = _UNLABELLED
        labels[shape.mask] = _KINDS[shape.kind][1]
    if picture.crowd is not None:
        labels[picture.crowd] = _KINDS['ellipse'][1]
    return labels


def _annotations(picture: Picture) -> list[dict[str, Any]]:
    """Make COCO's annotations of one picture, without ids."""
    found = []
    for shape in picture.shapes:
        x, y = shape.corners.min(0)
        width, height = np.ptp(shape.corners, axis=0)
        found.append(
            dict(
                category_id=_KINDS[shape.kind][2],
                bbox=[round(float(v), 2) for v in (x, y, width, height)],
                area=int(shape.mask.sum()),
                segmentation=[[float(v) for v in shape.corners.ravel()]],
                iscrowd=0,
            )
        )
    if picture.crowd is not None and picture.crowd.any():
        rows, columns = np.nonzero(picture.crowd)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        found.append(
            dict(
                category_id=_KINDS['ellipse'][2],
                bbox=[int(v) for v in box],
                area=int(picture.crowd.sum()),
                segmentation=dict(counts=_run_lengths(picture.crowd), size=list(picture.crowd.shape)),
                iscrowd=1,
            )
        )
    return found


def _run_lengths(mask: np.ndarray) -> list[int]:
    """Count equal pixels column by column, beginning with those outside, as COCO's uncompressed form wants it."""
    flat = np.concatenate([[False], mask.ravel(order='F')])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()


def _categories() -> list[dict[str, Any]]:
    """List COCO's 80 categories: mmdet numbers its labels by those that a file lists."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta['categories']
    return [dict(id=i, name=name) for i, name in enumerate(names) if name not in ('__background__', 'N/A')]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content) + '\n')


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*') if not path.is_dir())


def _check_replaceable(out: Path) -> None:
    """Refuse a folder that holds anything but what an earlier call wrote."""
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f'{out} is a file; name a folder')
    found = set(_files(out)) - {MARKER}
    try:
        made = set(json.loads((out / MARKER).read_text())['files'])
    except (OSError, ValueError, KeyError, TypeError):
        made = set()
    if found - made:
        foreign = sorted(found - made)[0]
        raise FileExistsError(f'{out} holds {foreign}, which make_shapes did not write; name another folder')
