"""Labels of a data set against its classes: those of class folders, and those of segmentation masks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from .data_report import DataReport, name_some
from .images import UnreadableImageError, printable, read_mask
from .scan import ImageFacts, scan_files

_IGNORED = 255  # the index of pixels without class
_MOST_VALUES = 1000  # in a mask
_NAMED = 10  # values without class


class MaskFacts(NamedTuple):
    """What is in a mask: why it is unreadable or None, its size, its different values, the number of pixels of each."""

    fault: str | None
    height: int = 0
    width: int = 0
    values: Sequence[int] = ()
    pixels: Sequence[int] = ()


def scan_masks(paths: Sequence[str]) -> list[MaskFacts]:
    """Return the facts of mask files, see :func:`~randsac_mm.datasets.scan.scan_files`."""
    return [MaskFacts(*entry) for entry in scan_files('masks', paths, _read)]


def check_classes(report: DataReport, dataset: Any) -> None:
    """Add the images of each class, and as errors labels that cannot be right."""
    counts = Counter(entry['gt_label'] for entry in dataset.data_list)
    folders, named = getattr(dataset, 'folder_to_idx', None), list(dataset.metainfo.get('classes') or ())
    classes = sorted(folders, key=folders.get) if folders else named or list(map(str, range(max(counts) + 1)))
    hidden = [name for name in folders or () if name.startswith('.')]
    if hidden:
        report.errors.append(
            f'{report.name}: the hidden folder {hidden[0]} counts as a class: remove it, or use LabelledImageFolder'
        )
    if folders and set(classes) == set(named) and classes != named:
        report.errors.append(
            f'{report.name}: labels follow the order of the folders, {name_some(classes)}, and not that of '
            f'metainfo.classes, {name_some(named)}: use LabelledImageFolder(classes=...)'
        )
    outside = sorted(label for label in counts if not 0 <= label < len(classes))
    if outside:
        report.errors.append(
            f'{report.name}: labels {name_some(outside)} are no class: there are {len(classes)}, from 0'
        )
    _add_classes(report, classes, {label: {'images': count} for label, count in counts.items()})


def check_masks(report: DataReport, dataset: Any, images: Sequence[ImageFacts], ignored: int = 255) -> None:
    """Add images and pixels of each class, and as errors masks that do not fit image or classes.

    ``ignored`` is the label that the model ignores.
    """
    entries, classes = dataset.data_list, list(dataset.metainfo.get('classes') or ())
    masks = scan_masks([entry['seg_map_path'] for entry in entries])
    index = _table(entries[0], len(classes), ignored)
    paths = [printable(entry['seg_map_path']) for entry in entries]
    faults = [mask.fault for mask in masks if mask.fault]
    sizes = [
        _describe_size(path, mask, image)
        for path, mask, image in zip(paths, masks, images, strict=True)
        if not mask.fault and not image.fault and (mask.height, mask.width) != image.upright_size
    ]
    # Value and pixels of each value of each mask, and the mask's number.
    values, pixels = (np.array([n for mask in masks for n in mask[part]], dtype=np.int64) for part in (3, 4))
    numbers = np.repeat(np.arange(len(masks)), [len(mask.values) for mask in masks])
    distinct, places = np.unique(values, return_inverse=True)
    counts = zip(distinct.tolist(), np.bincount(places), np.bincount(places, pixels), strict=True)
    found = {value: {'images': int(images), 'pixels': int(total)} for value, images, total in counts}
    labelled = np.isin(values, [value for value, label in index.items() if label != _IGNORED])
    whole = {path for path, mask in zip(paths, masks, strict=True) if not mask.fault}
    empty = sorted(whole - {paths[number] for number in numbers[labelled]})
    totals: dict[int, Counter[str]] = {}
    for value, count in found.items():
        totals.setdefault(index.get(value, -1), Counter()).update(count)
    report.facts['unlabelled_pixels'] = totals.pop(_IGNORED, {}).get('pixels', 0)
    report.facts['values'] = {str(value): count['pixels'] for value, count in found.items()}
    if faults:
        report.errors.append(f'{report.name}: {len(faults)} of {len(masks)} masks cannot be used: {name_some(faults)}')
    if sizes:
        report.errors.append(
            f'{report.name}: {len(sizes)} masks have another size than their image: {name_some(sizes)}'
        )
    if empty:
        lines = report.errors if len(empty) == len(masks) else report.warnings
        lines.append(f'{report.name}: {len(empty)} of {len(masks)} masks have no labelled pixel: {name_some(empty)}')
    known = _describe_values(index)
    if len(classes) == 2 and set(found) == {0, 255} and index.get(255) == _IGNORED:
        report.errors.append(
            f'{report.name}: the values of all masks are 0 and 255, and 255 is unlabelled, so that {classes[1]!r} is '
            'absent: set values=(0, 255), unlabelled=None in SegmentationFolder'
        )
    unknown = [value for value in found if value not in index]
    for value in unknown[:_NAMED]:
        first = np.argmax(values == value)
        report.errors.append(
            f'{paths[numbers[first]]}: value {value} ({pixels[first]:,} pixels; in {found[value]["images"]} of '
            f'{len(masks)} masks) is no class: {known}. Add the class, or set values or unlabelled={value} in '
            'SegmentationFolder'
        )
    if unknown[_NAMED:]:
        report.errors.append(f'{report.name}: {len(unknown) - _NAMED} more values are no class')
    _add_classes(report, classes, totals)


def _read(path: str) -> tuple[Any, ...]:
    try:
        mask = read_mask(path)
    except UnreadableImageError as error:
        return (str(error),)
    if mask.dtype == np.uint8:
        pixels = np.array(Image.fromarray(mask).histogram())  # seven times as fast as numpy's
        values = np.flatnonzero(pixels)
        pixels = pixels[values]
    else:
        values, pixels = np.unique(mask, return_counts=True)
    if len(values) > _MOST_VALUES:
        return (f'{printable(path)}: {len(values):,} different values are no classes (at most {_MOST_VALUES:,})',)
    return None, *mask.shape, values.tolist(), pixels.tolist()


def _table(entry: Mapping[str, Any], num_classes: int, ignored: int) -> dict[int, int]:
    """Return the class of every mask value that has one, or 255: of our entries or of mmseg's."""
    if entry.get('mask_values') is not None:
        return entry['mask_values']
    table = {}
    for value in range(max(256, num_classes + 1)):
        label = value
        if entry.get('reduce_zero_label'):
            label = _IGNORED if value in (0, _IGNORED) else value - 1
        label = (entry.get('label_map') or {}).get(label, label)
        if label < num_classes or label == ignored:
            table[value] = _IGNORED if label == ignored else label
    return table


def _describe_size(path: str, mask: MaskFacts, image: ImageFacts) -> str:
    height, width = image.upright_size
    text = f'{path} ({mask.width} x {mask.height}, image {width} x {height}'
    raw = image.orientation >= 5 and (mask.height, mask.width) == (image.height, image.width)
    return text + (
        ': it belongs to the raw pixels of a photograph that EXIF turns; turn the mask as well)' if raw else ')'
    )


def _describe_values(index: Mapping[int, int]) -> str:
    values = sorted(value for value, label in index.items() if label != _IGNORED)
    ignored = sorted(set(index) - set(values))
    whole = values == list(range(values[0], values[-1] + 1)) if values else False
    text = f'{values[0]} to {values[-1]}' if whole and len(values) > 2 else name_some(values)
    return f'the {len(values)} classes are {text}, unlabelled {name_some(ignored) or "none"}'


def _add_classes(report: DataReport, classes: Sequence[str], counts: Mapping[int, Mapping[str, int]]) -> None:
    """Add the counts of each class; fewer than two classes are an error, classes that never occur a warning."""
    report.facts['classes'] = {name: dict(counts.get(label, {'images': 0})) for label, name in enumerate(classes)}
    absent = [name for label, name in enumerate(classes) if label not in counts]
    if len(classes) < 2:
        report.errors.append(
            f'{report.name}: {len(classes)} class ({name_some(classes)}): name two or more, or there is '
            'nothing to tell apart; background is a class'
        )
    elif len(absent) == len(classes) - 1 and report.name.startswith('train'):
        report.errors.append(f'{report.name}: of {len(classes)} classes only one occurs; absent: {name_some(absent)}')
    elif absent:
        report.warnings.append(f'{report.name}: classes that never occur: {name_some(absent)}')
