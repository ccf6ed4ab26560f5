"""One annotation in COCO's format: computed where it is incomplete, skipped where it means nothing."""

from collections import Counter
from collections.abc import Mapping
from math import isfinite
from typing import Any


class SkippedError(ValueError):
    """An annotation is skipped. The message completes "annotations skipped, ..."."""


def clean_annotation(record: dict, image: dict, names: Mapping, masks: bool, repaired: Counter) -> tuple[dict, str]:
    """Return an annotation with whole ids, box, mask, area and ``iscrowd``; ``record`` itself if nothing changes.

    Args:
        record: The annotation.
        image: Its image, with the true ``height`` and ``width``.
        names: The categories, by id.
        masks: Whether it needs a mask.
        repaired: Counts the keys that are added or changed.

    Returns:
        The annotation, and what its box looks like, by the mask or else by the image: ``'sizes'``: x, y, width, height.
        ``'corners'``: x1, y1, x2, y2. ``'either'``: a box without mask that would be inside the image as both.
        ``'elsewhere'``: neither agrees with the mask.

    Raises:
        SkippedError: If it has no category, box or mask that can be used.
    """
    category, height, width = to_key(record.get('category_id')), image['height'], image['width']
    if category not in names:
        raise SkippedError('of a category that is not in the file')
    try:
        mask = _clean_mask(record.get('segmentation'), height, width)
    except SkippedError:
        if masks:
            raise
        mask = None
    crowd = int(bool(to_number(record.get('iscrowd'))))
    around = None if mask is None or crowd else _surround(mask, height, width)
    box = _to_numbers(record.get('bbox'), 4)
    if box is None and mask is None:
        raise SkippedError('without a box')
    if box is None:
        left, top, right, bottom = _surround(mask, height, width)
        box = [left, top, right - left, bottom - top]
    kind = 'sizes' if crowd else _guess(*box, around, height, width)
    box = _clip(*box, height, width)
    area = to_number(record.get('area')) or 0
    if area <= 0:
        area = _measure('area', mask, height, width) if mask else box[2] * box[3]
        if area == 0:
            raise SkippedError('of area 0')
    values = dict(bbox=box, iscrowd=crowd, image_id=image['id'], category_id=category, area=area)
    return update(record, repaired, **values, **({} if mask is None else dict(segmentation=mask))), kind


def to_number(value: Any) -> Any:
    """Return a finite number, also one that is written as a string, or None."""
    try:
        number = float(value) if isinstance(value, str) else value
        return number if isfinite(number) else None
    except (TypeError, ValueError):
        return None


def to_key(value: Any) -> Any:
    """Return an id: a whole number as int, also if it is written as a string; another string; or None."""
    if type(value) is int:
        return value
    number = to_number(value)
    return int(number) if number is not None and number == int(number) else value if isinstance(value, str) else None


def update(record: dict, repaired: Counter, **values: Any) -> dict:
    """Return a record with some values, and count the changed ones; the record itself if there are none."""
    new = {key: v for key, v in values.items() if type(record.get(key)) is not type(v) or record[key] != v}
    for key in new:
        repaired[key] += 1
    return {**record, **new} if new else record


def _to_numbers(values: Any, length: int | None = None) -> list | None:
    """Return a list of finite numbers of an even length, at least six without ``length``; or None."""
    if not isinstance(values, list) or len(values) % 2 or (len(values) != length if length else len(values) < 6):
        return None
    try:
        return values if isfinite(sum(values)) else None
    except TypeError:
        values = [to_number(value) for value in values]
        return None if None in values else values


def _clean_mask(mask: Any, height: int, width: int) -> list | dict:
    """Return polygons of at least three points, or RLE of the image's size, that cover a pixel."""
    if not mask:
        raise SkippedError('without a mask')
    if isinstance(mask, list):
        parts = [_to_numbers(part) for part in (mask if isinstance(mask[0], list) else [mask])]
        if not any(parts):
            raise SkippedError('with polygons of less than three points')
        return [part for part in parts if part]
    counts = mask.get('counts') if isinstance(mask, dict) else None
    if not isinstance(counts, (list, str)) or mask.get('size') != [height, width]:
        raise SkippedError('with an RLE mask of another size than the image')
    runs = counts if isinstance(counts, list) else [height * width]
    if not all(type(run) is int and run >= 0 for run in runs) or sum(runs) != height * width:
        raise SkippedError('with an RLE mask whose counts do not sum up to the image')
    if not _measure('area', mask, height, width):
        raise SkippedError('with an empty mask')
    return mask


def _clip(x: float, y: float, w: float, h: float, height: int, width: int) -> list:
    """Return x, y, width and height of the part of a box inside the image."""
    if w <= 0 or h <= 0:
        raise SkippedError('with a box of zero size')
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    if left >= right or top >= bottom:
        raise SkippedError('with a box outside the image')
    beyond = max(-x, -y, x + w - width, y + h - height) > 1  # COCO's own leave it by fractions of a pixel
    return [left, top, right - left, bottom - top] if beyond else [x, y, w, h]


def _guess(x: float, y: float, w: float, h: float, around: tuple | None, height: int, width: int) -> str:
    """Return what the numbers of a box are, see :func:`clean_annotation`."""
    if around is None:
        if not (x < w <= width + 1 and y < h <= height + 1):
            return 'sizes'
        return 'corners' if x + w > width + 1 or y + h > height + 1 else 'either'
    as_sizes, as_corners = _overlap((x, y, x + w, y + h), around), _overlap((x, y, w, h), around)
    return 'elsewhere' if max(as_sizes, as_corners) < 0.1 else 'corners' if as_corners > as_sizes else 'sizes'


def _overlap(a: tuple, b: tuple) -> float:
    """Return the intersection over union of two boxes (x1, y1, x2, y2)."""
    both = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return both / max(1e-9, (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


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
