"""Detection of a user's objects, annotated in COCO's format: Mask R-CNN on a pre-trained encoder."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from randsac_mm.datasets.check import raise_errors
from randsac_mm.datasets.coco import prepare_coco
from randsac_mm.datasets.data_report import name_some
from randsac_mm.export.encoder import Encoder

from .downstream import Found, choose_side


def look_at_objects(encoder: Encoder, folder: Path, annotations: Sequence[Path]) -> Found:
    """Look at images, in a folder or in one inside of it, and at two files in COCO's format: to train and to validate.

    Raises:
        FileNotFoundError: If there is no such file, or no image of it.
        ValueError: If the annotations cannot be used.
    """
    if len(annotations) != 2:
        raise ValueError(f'--annotations names {len(annotations)} file(s): name one to train and one to validate on')
    contents = [_read(path) for path in annotations]
    classes = tuple(str(category.get('name')) for category in contents[0]['categories'])
    masks = any(record.get('segmentation') for record in contents[0]['annotations'])
    parts = [
        dict(ann_file=str(path.resolve()), data_prefix=dict(img=_find_images(folder, path, content['images'])))
        for path, content in zip(annotations, contents, strict=True)
    ]
    common = dict(
        type='CocoDataset', metainfo={'classes': classes}, pipeline=[dict(type='LoadAnnotations', with_mask=masks)]
    )
    train, val = ({**common, **part} for part in parts)
    reports = prepare_coco({'train_dataloader': {'dataset': train}, 'val_dataloader': {'dataset': val}})
    raise_errors(reports)
    clean = json.loads(Path(train['ann_file']).read_bytes())  # repaired, with all boxes and sizes
    counts = Counter(record['image_id'] for record in clean['annotations'])
    short = median(min(image['height'], image['width']) for image in clean['images'])
    size = median(math.sqrt(math.prod(record['bbox'][2:])) for record in clean['annotations'])
    patch, side = encoder.backbone.patch_size, choose_side('detect', short, encoder)
    stride = 4 if patch >= 8 else patch // 2
    variables = dict(data_root='', classes=classes, train=parts[0], val=parts[1], masks=masks)
    variables |= dict(
        scale=(side * 5 // 3, side),
        strides=[stride * 2**level for level in range(5)],
        size_divisor=32 if 32 % patch == 0 else math.lcm(patch, 8),
        max_per_img=100 * math.ceil(max(counts.values()) / 100),
        anchor_scale=choose_anchor_scale(size * side / short, stride),
    )
    text = f'{len(counts):,} images with objects to train on, {reports[-1].facts["images"]:,} to validate on, '
    text += f'shorter sides {short:g} px, objects {size:.0f} px (medians); {len(classes)} classes: {name_some(classes)}'
    anchors = f'anchors from {stride * variables["anchor_scale"]} px'
    model = f'{"Mask" if masks else "Faster"} R-CNN, for images with a short side of {side} px, {anchors}'
    return Found(len(counts), variables, text, model)


def choose_anchor_scale(size: float, stride: int) -> int:
    """Return the side of the smallest anchors in strides, 2, 4 or 8, by the median side of objects in pixels.

    That is a third of the median or, of small objects, about the median; the largest anchors are 16 times as large.
    """
    return 2 ** min(3, max(1, round(math.log2(size / 3 / stride))))


def _read(path: Path) -> dict[str, list[dict]]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f'{path}: no JSON file: {error}') from error
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(content, dict) or not content.get(key):
            raise ValueError(f"{path} has no {key}: it must be a file of annotations in COCO's format")
    return content


def _find_images(folder: Path, path: Path, images: Sequence[dict]) -> str:
    """Return the folder, or the one in it, that contains most of the first images of an annotation file."""
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder} is not a folder: name that of the images')
    names = [str(image.get('file_name')) for image in images[:100]]
    folders = [folder, *sorted(child for child in folder.iterdir() if child.is_dir())]
    hits = {child: sum((child / name).is_file() for name in names) for child in folders}
    if not any(hits.values()):
        raise FileNotFoundError(f'{path}: neither {folder} nor a folder in it contains {name_some(names[:3])}')
    best = max(folders, key=lambda child: (hits[child], child.name in path.stem))  # train/ and val/ may share names
    return str(best.resolve())
