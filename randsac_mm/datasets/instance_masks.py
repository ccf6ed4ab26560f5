"""Folders of instance masks as annotations in COCO's format."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import label

from .data_report import name_some
from .images import find_image_files, read_mask
from .scan import scan_images


def masks_to_coco(
    images: str | os.PathLike, masks: str | os.PathLike, classes: Sequence[str]
) -> tuple[dict, list[str]]:
    """Return the annotations of a folder of images and a folder of instance masks.

    The mask of ``images/a.jpg`` is the file ``masks/a.png``, whose values number the instances (0: background), or it
    is files of one instance each, non-zero inside, ``masks/a/*.png`` or ``masks/a_*.png``. Of several classes each has
    a folder of such masks, ``masks/CLASS``. An instance of several parts stays one; instances may touch or overlap.

    Returns:
        The annotations, with masks as RLE, exact boxes (x, y, width, height) and areas in pixels. Lines about masks
        without image, images without mask (one of zeros says that there is nothing), and masks that look semantic.

    Raises:
        ValueError: If no image has a mask, an image or mask cannot be read, a mask has another size than its image, or
            one of several masks of an image and a class has several values.
    """
    paths = find_image_files(images)
    names = {os.path.splitext(path.relative_to(images).as_posix())[0]: path for path in paths}
    if len(names) < len(paths):
        raise ValueError(f'{images}: images that differ only in their ending, which one name of a mask would mean')
    found, alone, whole = defaultdict(list), [], []
    for category, name in enumerate(classes, 1):
        folder = Path(masks, name) if len(classes) > 1 else Path(masks)
        for path in find_image_files(folder):
            stem = path.relative_to(folder).with_suffix('').as_posix()
            starts = [stem, *(stem[:end] for end in range(len(stem) - 1, 0, -1) if stem[end] in '_/')]
            image = next((start for start in starts if start in names), None)
            (alone if image is None else found[image]).append((category, path))
    if not found:
        raise ValueError(
            f'{masks}: no mask is of one of the {len(paths):,} images in {images}: {name_some(list(names))}'
        )
    categories = [dict(id=number, name=name) for number, name in enumerate(classes, 1)]
    data: dict[str, Any] = dict(info={}, images=[], annotations=[], categories=categories)
    for (name, path), facts in zip(names.items(), scan_images([str(path) for path in paths]), strict=True):
        if facts.fault is not None:
            raise ValueError(f'{path}: {facts.fault}')
        if name not in found:
            continue
        height, width = facts.upright_size
        file_name = path.relative_to(images).as_posix()
        data['images'].append(dict(id=len(data['images']) + 1, file_name=file_name, height=height, width=width))
        several = Counter(category for category, _ in found[name])
        for category, mask in found[name]:
            pixels = read_mask(mask)
            if pixels.shape != (height, width):
                raise ValueError(f'{mask}: {pixels.shape[::-1]} px, but {path} is {width} x {height} px')
            instances = encode_instances(pixels)
            if len(instances) > 1 and several[category] > 1:
                raise ValueError(
                    f'{mask}: {len(instances)} values, but one of {several[category]} masks has one instance'
                )
            if several[category] == len(instances) == 1 and label(pixels)[1] > 1:
                whole.append(mask)
            for instance in instances:
                ids = dict(id=len(data['annotations']) + 1, image_id=len(data['images']), category_id=category)
                data['annotations'].append(ids | instance)
    notes = {
        'images without mask, left out': [name for name in names if name not in found],
        'masks without image, left out': [mask for _, mask in alone],
        'masks of one value in several parts, which become one instance': whole,
    }
    return data, [f'{text}: {len(items):,} ({name_some(items)})' for text, items in notes.items() if items]


def encode_instances(labels: np.ndarray) -> list[dict[str, Any]]:
    """Return ``segmentation``, ``bbox``, ``area`` and ``iscrowd`` of every value but 0 of labels (H, W), in order."""
    from pycocotools.mask import frPyObjects

    height, width = labels.shape
    flat = labels.ravel(order='F')  # COCO counts down the columns
    inside = np.flatnonzero(flat)
    order = inside[np.argsort(flat[inside], kind='stable')]
    found = []
    for place in np.split(order, np.flatnonzero(np.diff(flat[order])) + 1) if len(order) else []:
        gaps = np.flatnonzero(np.diff(place) > 1)
        starts, ends = place[np.r_[0, gaps + 1]], place[np.r_[gaps, -1]] + 1
        counts = np.diff(np.r_[0, np.stack([starts, ends], axis=1).ravel(), flat.size])
        mask = frPyObjects(dict(size=[height, width], counts=counts.tolist()), height, width)
        columns, rows = place // height, place % height
        left, top = int(columns.min()), int(rows.min())
        box = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
        segmentation = dict(size=[height, width], counts=mask['counts'].decode())
        found.append(dict(segmentation=segmentation, bbox=box, area=len(place), iscrowd=0))
    return found
