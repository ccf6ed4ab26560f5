"""The contents of an annotation file in COCO's format: checked, and repaired where the values can be computed."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from .coco_annotation import SkippedError, clean_annotation, to_key, to_number, update
from .data_report import name_some
from .scan import ImageFacts


def clean_coco(
    data: Any,
    classes: Sequence[str],
    scan: Callable[[list[str]], Sequence[ImageFacts]],
    masks: bool = True,
    filter_cfg: Mapping[str, Any] | None = None,
    indices: int | Sequence[int] | None = None,
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return annotations that mmdet reads as they are meant, and what is in them.

    Args:
        data: The parsed annotation file, which is not changed.
        classes: Names of the classes, in the order of the labels.
        scan: Returns the facts of image files, given by ``file_name``.
        masks: Whether an instance without mask is skipped.
        filter_cfg: mmdet's, of a training set.
        indices: mmengine's: the first images (negative: the last), or places of images in the file, after
            ``filter_cfg``. The result has only these, in this order.

    Returns:
        The annotations, ``data`` itself if nothing had to change; facts; warnings.

    Raises:
        ValueError: If the format is another, a class has no category, ids of images or categories are missing or
            repeat, sizes are not those of the images, boxes are corners, or nothing is left to read.
    """
    _check_format(data)
    notes, repaired, formats, filter_cfg = defaultdict(list), Counter(), defaultdict(list), filter_cfg or {}
    categories = _sort_categories(data['categories'], classes, repaired)
    names = {category['id']: category['name'] for category in categories}
    labels = {category['id'] for category in categories if category['name'] in classes}
    seen = dict(zip(files := [image['file_name'] for image in data['images']], scan(files), strict=True))
    images = _check_images(data['images'], seen, notes, repaired)
    readable = [found for found in seen.values() if not found.fault]
    turned = sum(found.orientation > 1 for found in readable)
    facts = {'type': 'CocoDataset', 'modes': dict(Counter(found.mode for found in readable)), 'turned_by_exif': turned}
    facts['skipped'] = {'unreadable': [name for name, found in seen.items() if found.fault]}
    chosen = _choose(images, data['annotations'], labels, filter_cfg, indices)
    annotations = []
    for place, record in enumerate(data['annotations'], 1):
        image, name = to_key(record.get('image_id')), record.get('id', f'number {place}')
        if image not in images:
            notes['annotations skipped, of an image that is not in the file'].append(name)
        elif chosen.get(image):
            try:
                clean, kind = clean_annotation(record, images[image], names, masks, repaired)
                annotations.append(clean)
                formats[kind].append(name)
            except SkippedError as reason:
                notes[f'annotations skipped, {reason}'].append(name)
    for kind, text in (
        ('corners', 'corners (x1, y1, x2, y2), not x, y, width, height'),
        ('elsewhere', 'where masks are not'),
    ):
        if len(formats[kind]) * 2 > sum(map(len, formats.values())):
            raise ValueError(f'boxes seem to be {text}: annotations {name_some(formats[kind])}')
    notes['boxes where their masks are not'] = formats['elsewhere']

    objects = defaultdict(list)  # that can be trained on, by image
    for record in annotations:
        if record['category_id'] in labels and not record['iscrowd'] and min(record['bbox'][2:]) >= 1:
            objects[record['image_id']].append(record)
    if filter_cfg.get('filter_empty_gt'):
        crowded = {record['image_id'] for record in annotations if record['category_id'] in labels} - objects.keys()
        notes['images skipped, with nothing but crowds'] = list(crowded)
        chosen = {key: image for key, image in chosen.items() if key not in crowded}
    kept = {key: image for key, image in chosen.items() if image}
    small = [key for key, image in kept.items() if _short_side(image) < filter_cfg.get('min_size', 0)]
    notes['images smaller than filter_cfg.min_size, which leaves them out'] = small
    annotations = [record for record in annotations if record['image_id'] in kept]
    # COCO's evaluation takes the id 0 for "no match".
    ids = [record.get('id') for record in annotations]
    if not all(type(number) is int and number > 0 for number in ids) or len(set(ids)) < len(ids):
        annotations = [update(record, repaired, id=number) for number, record in enumerate(annotations, 1)]
    facts |= _summarize(kept, objects, annotations, names, classes) | {'repaired': dict(repaired)}
    notes['classes without objects'] = [name for name, found in facts['classes'].items() if not found['instances']]
    notes['categories skipped, that are no class'] = [f'{name}: {n}' for name, n in facts['other_categories'].items()]
    warnings = [f'{reason}: {len(found):,} ({name_some(found)})' for reason, found in notes.items() if found]
    if len(small) == len(kept) or not objects:
        raise ValueError(f'no {"image" if objects else "object of a class"} is left. {"; ".join(warnings)}')
    clean = dict(images=list(kept.values()), annotations=annotations, categories=categories)
    if 'info' in data and all(list(map(id, data[key])) == list(map(id, records)) for key, records in clean.items()):
        return data, facts, warnings
    return {'info': {}, **data, **clean}, facts, warnings


def _check_format(data: Any) -> None:
    if not isinstance(data, dict):
        raise ValueError(f'a {type(data).__name__}, where an object with images, annotations and categories must be')
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(data.get(key), list) or not all(isinstance(record, dict) for record in data[key]):
            raise ValueError(f'no list of {key} as in the format of COCO; it has {name_some(list(data))}')
    for record in data['images']:
        if not isinstance(record.get('file_name'), str) or to_key(record.get('id')) is None:
            raise ValueError(f'an image has no id or no file_name: {dict(list(record.items())[:4])}')


def _sort_categories(records: list[dict], classes: Sequence[str], repaired: Counter) -> list[dict]:
    """Return the categories, those that are classes first and in their order if the file has another order."""
    records = [update(c, repaired, id=to_key(c.get('id')), name=str(c.get('name') or '')) for c in records]
    for key in ('id', 'name'):
        values = [record[key] for record in records]
        if len(set(values) - {None, ''}) < len(values):
            raise ValueError(f'every category must have its own {key}, but they are {name_some(values)}')
    named = {record['name']: record for record in records}
    for name in classes:
        if name not in named:
            close = get_close_matches(name.lower(), [*named], cutoff=0.5)
            hint = f'did you mean {" or ".join(close)}? ' if close else ''
            raise ValueError(f'no category {name!r}, but {name_some(list(named))}; {hint}metainfo.classes names them')
    if [name for name in named if name in classes] == list(classes):
        return records
    repaired['order of categories'] += 1
    return [named[name] for name in classes] + [record for record in records if record['name'] not in classes]


def _check_images(records: list[dict], seen: dict, notes: dict[str, list], repaired: Counter) -> dict[Any, dict]:
    """Return the images by id, with their sizes as read; an empty dict for one that cannot be read."""
    found: dict[Any, dict] = {}
    wrong = []
    for record in records:
        name, key = record['file_name'], to_key(record['id'])
        facts = seen[name]
        height, width = facts.upright_size
        if key in found:
            raise ValueError(f'two images have the id {key}; one is {name}')
        stated = to_number(record.get('height')), to_number(record.get('width'))
        found[key] = {}
        if facts.fault is not None:
            notes['images skipped, because they cannot be read'].append(f'{name}: {facts.fault}')
        elif all(stated) and stated != (height, width):
            wrong.append(f'{name} is {stated[1]:g} x {stated[0]:g} px here, but {width} x {height} px as it is read')
            if stated == (facts.height, facts.width):
                wrong[-1] += (
                    ', turned by EXIF: annotated in raw pixels, so remove the EXIF orientation from the photographs'
                )
        else:
            found[key] = update(record, repaired, id=key, height=height, width=width)
            if facts.orientation > 1 and (facts.orientation < 5 or height == width):
                notes['images turned by EXIF, where annotations must belong to the upright pixels'].append(name)
    if wrong:
        raise ValueError(f'{wrong[0]} ({len(wrong):,} of {len(records):,} images)')
    names = Counter(record['file_name'] for record in records)
    notes['files that are several images'] = [name for name, count in names.items() if count > 1]
    return found


def _choose(images: dict, annotations: list[dict], labels: set, filter_cfg: Mapping, indices: Any) -> dict:
    """Return the images that mmengine would take by ``indices``, in its order."""
    if indices is None:
        return images
    full = {to_key(record.get('image_id')) for record in annotations if to_key(record.get('category_id')) in labels}
    left = [
        key
        for key, image in images.items()
        if (key in full or not filter_cfg.get('filter_empty_gt'))
        and (not image or _short_side(image) >= filter_cfg.get('min_size', 0))
    ]
    if isinstance(indices, int):
        left, indices = left[:indices] if indices >= 0 else left[indices:], range(min(abs(indices), len(left)))
    beyond = [index for index in indices if not -len(left) <= index < len(left)]
    if beyond or len(set(indices)) < len(indices):
        raise ValueError(
            f'indices must each be another one of {len(left)} images, but are {name_some(beyond or indices)}'
        )
    return {left[index]: images[left[index]] for index in indices}


def _short_side(image: dict) -> int:
    return min(image['height'], image['width'])


def _summarize(images: dict, objects: dict, annotations: list[dict], names: dict, classes: Sequence[str]) -> dict:
    """Return the facts of a report."""
    sides = [side for image in images.values() for side in (image['height'], image['width'])]
    found = {name: dict(images=0, instances=0, pixels=0) for name in classes}
    for records in objects.values():
        for record in records:
            found[names[record['category_id']]]['instances'] += 1
            found[names[record['category_id']]]['pixels'] += round(record['area'])
        for name in {names[record['category_id']] for record in records}:
            found[name]['images'] += 1
    others = Counter(names[record['category_id']] for record in annotations)
    return {
        'images': len(images),
        'images_without_objects': sum(not objects.get(key) for key in images),
        'shortest_side': min(sides, default=0),
        'longest_side': max(sides, default=0),
        'classes': found,
        'other_categories': {name: count for name, count in others.items() if name not in classes},
        'most_instances': max(map(len, objects.values()), default=0),
    }
