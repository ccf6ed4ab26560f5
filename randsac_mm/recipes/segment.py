"""Segmentation of a user's images and masks: UPerNet on a pre-trained encoder."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from randsac_mm.datasets import SegmentationFolder
from randsac_mm.datasets.data_report import name_some
from randsac_mm.datasets.label_checks import scan_masks
from randsac_mm.datasets.scan import scan_images
from randsac_mm.export.encoder import Encoder

from .downstream import Found, choose_side

FOLDERS = (('images', 'masks'), ('images', 'annotations'), ('img_dir', 'ann_dir'))  # of images and of masks
SPLITS = (('train', 'val'), ('training', 'validation'))  # in both


def look_at_masks(
    encoder: Encoder,
    data: Path,
    classes: Sequence[str],
    values: Sequence[int] | None = None,
    unlabelled: Sequence[int] | None = None,
) -> Found:
    """Look at images and masks, see :func:`find_pairs`, whose classes have ``values`` (None: 0, 1, 2, ...).

    ``unlabelled`` are values of pixels without class; None: 255, unless that is a class.

    Raises:
        FileNotFoundError: If the folder has another layout, or no images with masks.
        ValueError: If masks have other values; with a proposal.
    """
    parts = find_pairs(data)
    if unlabelled is None:
        unlabelled = () if values and 255 in values else (255,)
    labels: dict[str, Any] = dict(classes=tuple(classes), values=values and tuple(values), unlabelled=tuple(unlabelled))
    root = str(data.resolve())
    train, val = (SegmentationFolder(root, serialize_data=False, **labels, **part).data_list for part in parts)
    _check_values([entry['seg_map_path'] for entry in train + val], **labels)
    short = median(min(facts.upright_size) for facts in scan_images([entry['img_path'] for entry in train]))
    side = choose_side('segment', short, encoder)
    variables = dict(data_root=root, train=parts[0], val=parts[1], short_side=side, crop_size=(side, side), **labels)
    variables['channels'] = max(32, min(512, encoder.backbone.embed_dims * 4 // 3 // 32 * 32))
    text = f'{len(train):,} images to train on, {len(val):,} to validate on, shorter sides {short:g} px (median); '
    text += f'{len(classes)} classes: {name_some(classes)}'
    return Found(
        len(train), variables, text, f'UPerNet, for crops of {side} px of images with a short side of {side} px'
    )


def find_pairs(data: Path) -> list[dict[str, Any]]:
    """Return the arguments of ``SegmentationFolder`` that choose images and masks to train and to validate on.

    Folders are named as in ``FOLDERS``, and split as in ``SPLITS`` or not: then every fifth pair validates.

    Raises:
        FileNotFoundError: If they are not.
    """
    for kinds in FOLDERS:
        if all((data / kind).is_dir() for kind in kinds):
            for split in SPLITS:
                if all((data / kind / part).is_dir() for kind in kinds for part in split):
                    return [dict(data_prefix=_prefix(f'{kind}/{part}' for kind in kinds)) for part in split]
            return [dict(data_prefix=_prefix(kinds), part=part) for part in ('train', 'val')]
    pairs, splits = (' or '.join(f'{a}/ and {b}/' for a, b in names) for names in (FOLDERS, SPLITS))
    raise FileNotFoundError(f'{data} must contain {pairs}; and both of them, if there is a split, {splits}')


def _prefix(kinds: Iterable[str]) -> dict[str, str]:
    return dict(zip(('img_path', 'seg_map_path'), kinds, strict=True))


def _check_values(
    masks: Sequence[str], classes: Sequence[str], values: Sequence[int] | None, unlabelled: Sequence[int]
) -> None:
    """Refuse values of masks that are neither a class nor unlabelled, with a proposal."""
    found = {value for facts in scan_masks(masks) for value in facts.values}
    known = range(len(classes)) if values is None else values
    unknown = found - {*known, *unlabelled}
    if not unknown and (values or found != {0, 255} or len(classes) != 2):
        return
    fitting = [sorted(some) for some in (found, found - {*unlabelled}) if len(some) == len(classes)]
    if fitting and values is None:
        proposal = f'--values {" ".join(map(str, fitting[0]))}'
    else:
        ignored = ' '.join(map(str, sorted({*unlabelled, *unknown})))
        proposal = f'their classes to --classes and --values; or, if they are none, --unlabelled {ignored}'
    raise ValueError(
        f'the masks have the values {name_some(sorted(found))}, but classes are {name_some(known)} '
        f'({name_some(classes)}) and unlabelled {name_some(unlabelled) or "none"}: add {proposal}'
    )
