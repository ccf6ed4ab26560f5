#!/usr/bin/env python
"""Write tiny data sets of coloured shapes in the formats of ADE20K and COCO, for the smoke configs.

python tools/make_shapes.py --out data/shapes              # data/shapes/ade20k and data/shapes/coco
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from randsac_mm.engine.tool import make_parser, run_tool

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

MARKER = 'shapes.json'
KINDS = [  # number of corners, colour, ADE20K's label and COCO's category of each shape
    (24, (205, 55, 50), 120, 37),  # ellipse: ball, sports ball
    (4, (50, 80, 210), 42, 33),  # rectangle: box, suitcase
    (3, (230, 190, 40), 115, 38),  # triangle: tent, kite
]
GROUNDS = {1: (150, 140, 130), 3: (130, 180, 225), 10: (70, 140, 60)}  # ADE20K's wall, sky and grass: colours


def make_shapes(out: str | Path, images: int = 8, val: int = 4, size: Sequence[int] = (96, 128)) -> Path:
    """Write pictures to train on and to validate on in two formats: ``<out>/ade20k`` and ``<out>/coco``.

    The pixels around each shape are unlabelled in ADE20K's format. Every fourth picture has no shape. Height and width
    are 60 % to 100 % of ``size``, and at least 32 px. ``out`` is new or of an earlier call; else FileExistsError.
    """
    out = Path(out)
    if out.exists() and not (out / MARKER).exists() and any(out.iterdir()):
        raise FileExistsError(f'{out} contains other files; name another folder')
    for split, (name, ade_name, count) in enumerate([('train', 'training', images), ('val', 'validation', val)]):
        ade_images, ade_labels = out / 'ade20k' / 'images' / ade_name, out / 'ade20k' / 'annotations' / ade_name
        coco_images, coco_labels = out / 'coco' / f'{name}2017', out / 'coco' / 'annotations'
        for folder in (ade_images, ade_labels, coco_images, coco_labels):
            folder.mkdir(parents=True, exist_ok=True)
        (out / MARKER).touch()
        listed, annotations = [], []
        for index in range(count):
            tries = 0 if index % 4 == 3 else 6  # the first shape always fits
            pixels, labels, found = draw(np.random.default_rng([0, split, index]), tries, size)
            for folder in (ade_images, coco_images):
                Image.fromarray(pixels).save(folder / f'{index:06d}.jpg', quality=95)
            Image.fromarray(labels).save(ade_labels / f'{index:06d}.png')
            height, width = labels.shape
            listed.append(dict(id=index + 1, file_name=f'{index:06d}.jpg', height=height, width=width))
            annotations += [dict(own, id=len(annotations) + i, image_id=index + 1) for i, own in enumerate(found, 1)]
        names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta['categories']
        categories = [dict(id=i, name=name) for i, name in enumerate(names) if name not in ('__background__', 'N/A')]
        with (coco_labels / f'instances_{name}2017.json').open('w') as file:
            json.dump(dict(images=listed, annotations=annotations, categories=categories), file)
    return out


def draw(rng: np.random.Generator, tries: int, largest: Sequence[int]) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """Draw a picture: pixels (H, W, 3), ADE20K's labels (H, W), both uint8, and COCO's annotations without ids."""
    size = tuple(int(rng.integers(max(32, side * 6 // 10), side + 1)) for side in largest)
    ground = int(rng.choice(list(GROUNDS)))
    pixels = texture(rng, size, GROUNDS[ground])
    labels = np.full(size, ground, dtype=np.uint8)
    taken = np.zeros(size, dtype=bool)
    annotations = []
    for _ in range(tries):
        count, colour, label, category = KINDS[rng.integers(len(KINDS))]
        corners = outline(rng, count, rng.uniform(min(size) / 10, min(size) / 3.5))
        # Two decimals: the numbers in the file are the numbers that were drawn.
        corners = np.round(corners + rng.uniform(-corners.min(0), size[::-1] - corners.max(0)), 2)
        mask = inside(corners, size)
        if (binary_dilation(mask, iterations=2) & taken).any():
            continue
        taken |= mask
        pixels[mask] = texture(rng, size, colour)[mask]
        labels[binary_dilation(mask)] = 0
        labels[mask] = label
        box = [*corners.min(0).tolist(), *np.round(np.ptp(corners, axis=0), 2).tolist()]
        annotation = dict(category_id=category, bbox=box, area=int(mask.sum()), iscrowd=0)
        annotations.append({**annotation, 'segmentation': [corners.ravel().tolist()]})
    return pixels, labels, annotations


def texture(rng: np.random.Generator, size: tuple[int, int], colour: tuple[int, int, int]) -> np.ndarray:
    """Fill (H, W, 3) with a colour that varies slowly and, less, from pixel to pixel."""
    coarse = rng.normal(0, 22, (-(-size[0] // 8) + 1, -(-size[1] // 8) + 1)).astype(np.float32)
    slow = np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BILINEAR))[..., None]
    shade = np.asarray(colour) + rng.normal(0, 8, 3) + slow + rng.normal(0, 5, (*size, 3))
    return shade.clip(0, 255).astype(np.uint8)


def outline(rng: np.random.Generator, count: int, radius: float) -> np.ndarray:
    """Draw the corners (count, 2) of a convex shape around the origin, turned at random."""
    angles = 2 * np.pi * np.arange(count) / count + np.pi / 4
    stretch, turn = rng.uniform(0.6, 1.0), rng.uniform(0, 2 * np.pi)
    x, y = radius * np.cos(angles), radius * stretch * np.sin(angles)
    return np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=1)


def inside(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return which pixels (H, W) have their centre in a convex polygon."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    mask = np.ones(size, dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        mask &= (x1 - x0) * (y - y0) >= (y1 - y0) * (x - x0)
    return mask


def work(args: argparse.Namespace) -> str:
    out = make_shapes(args.out)
    return f'8 + 4 pictures in {out}/ade20k and {out}/coco'


if __name__ == '__main__':
    parser = make_parser(__doc__, config=False)
    parser.add_argument('--out', default='data/shapes', help='folder to write (default: %(default)s)')
    run_tool(parser, work)
