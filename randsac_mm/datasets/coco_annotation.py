"""One annotation in COCO's format: computed where it is incomplete, left out where it means nothing."""

from collections import Counter
from collections.abc import Mapping
from math import isfinite
from typing import Any


class SkippedError(ValueError):
    """An annotation is left out. The message completes "annotations skipped, ..."."""


def clean_annotation(record: dict, image: dict, categories: Mapping, masks: bool, repaired: Counter) -> dict:
    """Return an annotation with box, mask, area, ``iscrowd`` and whole ids; ``record`` itself if it has them already.

    Args:
        record: The annotation.
        image: Its image, with the true ``height`` and ``width``.
        categories: What has the ids of the categories as keys.
        masks: Whether it needs a mask.
        repaired: Counts the keys that are added or changed.

    Raises:
        SkippedError: If it has no category, box or mask that can be used.
    """
    if to_key(record.get('category_id')) not in categories:
        raise SkippedError('of a category that is not in the file')
    height, width = image['height'], image['width']
    try:
        mask = _clean_mask(record.get('segmentation'), height, width)
    except SkippedError:
        if masks:
            raise
        mask = None
    values = dict(
        bbox=_clean_box(record.get('bbox'), mask, height, width),
        iscrowd=int(bool(to_number(record.get('iscrowd')))),
        image_id=image['id'],
        category_id=to_key(record['category_id']),
        area=to_number(record.get('area')) or 0,
    )
    if mask is not None:
        values['segmentation'] = mask
    if values['area'] <= 0:
        values['area'] = _measure('area', mask, height, width) if mask else values['bbox'][2] * values['bbox'][3]
        if values['area'] == 0:
            raise SkippedError('of area 0')
    return update(record, repaired, **values)


def guess_format(box: Any, annotation: dict, image: dict) -> str:
    """Return what the numbers of a box are, judged by the mask or else by the image.

    Returns:
        ``'sizes'``: x, y, width, height. ``'corners'``: x1, y1, x2, y2. ``'elsewhere'``: neither agrees with the mask.
        Without a mask ``'sizes'``, ``'corners'`` if only corners are in the image, ``'either'`` if both are.
    """
    mask, height, width = annotation.get('segmentation'), image['height'], image['width']
    numbers = [to_number(value) for value in box] if isinstance(box, list) else []
    if annotation['iscrowd'] or len(numbers) != 4 or None in numbers:
        return 'sizes'
    x, y, w, h = numbers
    try:
        around = _surround(_clean_mask(mask, height, width), height, width)
    except SkippedError:
        if not (x < w <= width + 1 and y < h <= height + 1):
            return 'sizes'
        return 'corners' if x + w > width + 1 or y + h > height + 1 else 'either'
    as_sizes, as_corners = _overlap((x, y, x + w, y + h), around), _overlap((x, y, w, h), around)
    return 'elsewhere' if max(as_sizes, as_corners) < 0.1 else 'corners' if as_corners > as_sizes else 'sizes'


def to_number(value: Any) -> Any:
    """Return a finite number, also one that is written as a string, or None."""
    try:
        number = float(value) if isinstance(value, str) else value
        return number if isfinite(number) else None
    except (TypeError, ValueError):
        return None


def to_key(value: Any) -> Any:
    """Return an id: a whole number as int, also if it is written as a string; other strings; or None."""
    number = to_number(value)
    return int(number) if number is not None and number == int(number) else value if isinstance(value, str) else None


def update(record: dict, repaired: Counter, **values: Any) -> dict:
    """Return a record with some values, and count the changed ones; the record itself if there are none."""
    new = {key: v for key, v in values.items() if type(record.get(key)) is not type(v) or record[key] != v}
    repaired.update(new.keys())
    return {**record, **new} if new else record


def _clean_mask(mask: Any, height: int, width: int) -> list | dict:
    """Return polygons of at least three points, or RLE of the image's size, that cover a pixel."""
    if not mask:
        raise SkippedError('without a mask')
    if isinstance(mask, list):
        parts = mask if isinstance(mask[0], list) else [mask]
        polygons = [polygon for polygon in map(_clean_polygon, parts) if polygon is not None]
        if not polygons:
            raise SkippedError('with polygons of less than three points')
        return polygons
    counts = mask.get('counts') if isinstance(mask, dict) else None
    if not isinstance(counts, (list, str)) or mask.get('size') != [height, width]:
        raise SkippedError('with an RLE mask of another size than the image')
    if isinstance(counts, list) and (
        not all(type(n) is int and n >= 0 for n in counts) or sum(counts) != height * width
    ):
        raise SkippedError('with an RLE mask whose counts do not sum up to the image')
    if not _measure('area', mask, height, width):
        raise SkippedError('with an empty mask')
    return mask


def _clean_polygon(points: Any) -> list | None:
    if not isinstance(points, list) or len(points) < 6 or len(points) % 2:
        return None
    try:
        return points if isfinite(sum(points)) else None
    except TypeError:
        points = [to_number(value) for value in points]
        return None if None in points else points


def _clean_box(box: Any, mask: list | dict | None, height: int, width: int) -> list:
    """Return x, y, width and height inside the image; of the mask, if there is no box."""
    numbers = [to_number(value) for value in box] if isinstance(box, list) else []
    if len(numbers) != 4 or None in numbers:
        if mask is None:
            raise SkippedError('without a box')
        left, top, right, bottom = _surround(mask, height, width)
        numbers = [left, top, right - left, bottom - top]
    x, y, w, h = numbers
    if w <= 0 or h <= 0:
        raise SkippedError('with a box of zero size')
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    if left >= right or top >= bottom:
        raise SkippedError('with a box outside the image')
    beyond = max(-x, -y, x + w - width, y + h - height) > 1  # COCO's own leave it by fractions of a pixel
    return [left, top, right - left, bottom - top] if beyond else numbers


def _surround(mask: list | dict, height: int, width: int) -> tuple:
    """Return the box (x1, y1, x2, y2) around a mask."""
    if isinstance(mask, list):
        columns, rows = [x for part in mask for x in part[0::2]], [y for part in mask for y in part[1::2]]
        return min(columns), min(rows), max(columns), max(rows)
    x, y, w, h = _measure('toBbox', mask, height, width)
    return x, y, x + w, y + h


def _measure(what: str, mask: list | dict, height: int, width: int) -> Any:
    """Return ``area`` (pixels) or ``toBbox`` (x, y, width, height) of a mask, by pycocotools."""
    from pycocotools import mask as coco

    if isinstance(mask, list):
        mask = coco.merge(coco.frPyObjects(mask, height, width))
    elif isinstance(mask['counts'], list):
        mask = coco.frPyObjects(mask, height, width)
    return getattr(coco, what)(mask).tolist()


def _overlap(a: tuple, b: tuple) -> float:
    """Return the intersection over union of two boxes (x1, y1, x2, y2)."""
    sides = [max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1)]
    both = sides[0] * sides[1]
    return both / max(1e-9, (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
