"""Annotation files in COCO's format: checked before mmdet reads them, and repaired where the values can be computed.

mmdet numbers the labels by the order of ``categories`` in each file, fails at an incomplete annotation, and lets an
evaluator count images that the data set leaves out. A file that needs it gets a cleaned copy in the cache.
"""

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.registry import DATASETS

from randsac_mm.files import atomic_write

from .coco_cleaning import clean_coco
from .data_report import DataReport, find_datasets, name_some
from .scan import ImageFacts, cache_folder, recall, remember, scan_images

_VERSION = 2  # of the copies: to be raised when the rules change


def prepare_coco(cfg: Mapping[str, Any], parts: Sequence[str] = ('train', 'val', 'test')) -> list[DataReport]:
    """Check the annotation files of every ``CocoDataset`` of a config, and put in cleaned copies where needed.

    The data sets of a loader and its ``CocoMetric`` then read the same file, with labels in the order of the classes.
    ``indices`` leave the config, because the copy has only those images.

    Args:
        cfg: The config, which is changed.
        parts: Which data loaders.

    Returns:
        The report of each data set; one for all that differ in nothing, such as validation and test.
    """
    reports, known = [], {}
    for part in parts:
        metrics = list(_find(cfg.get(f'{part}_evaluator'), 'CocoMetric'))
        prepared = {}
        datasets = {key: node for key, node in find_datasets(cfg, [part]).items() if is_coco(node)}
        for key, dataset in datasets.items():
            root = dataset.get('data_root') or ''
            path = os.path.join(root, dataset.get('ann_file') or '')
            folder = os.path.join(root, (dataset.get('data_prefix') or {}).get('img', ''))
            options = dict(
                masks=any(step.get('with_mask') for step in _find(dataset.get('pipeline'), 'LoadAnnotations'))
                or any('segm' in metric.get('metric', 'bbox') for metric in metrics),
                filter_cfg=None if dataset.get('test_mode') else dataset.get('filter_cfg'),
                indices=dataset.get('indices'),
            )
            query = repr((path, folder, dataset.get('metainfo'), options))
            if query not in known:
                reports.append(report := DataReport(key))
                known[query] = None
                try:
                    known[query], report.facts, warnings = _open(path, folder, _read_classes(dataset), options)
                    report.warnings = [f'{path}: {line}' for line in warnings]
                except FileNotFoundError:
                    report.errors.append(f'{path}: there is no such file, see {key}.ann_file and data_root')
                except (OSError, ValueError) as error:
                    report.errors.append(f'{path}: {error}')
            if known[query]:
                prepared[os.path.abspath(path)] = dataset['ann_file'] = known[query]
                dataset.pop('indices', None)
        for metric in metrics if 0 < len(datasets) == len(prepared) else []:
            path = os.path.abspath(metric.get('ann_file') or '')
            if path in prepared:
                metric['ann_file'] = prepared[path]
            elif metric.get('ann_file'):
                text = f'{part}_evaluator reads it, but {part}_dataloader {name_some(list(prepared))}; name one file'
                reports.append(DataReport(f'{part}_evaluator', errors=[f'{metric["ann_file"]}: {text}']))
    return reports


def is_coco(dataset: Mapping[str, Any]) -> bool:
    """Return whether the config of a data set is one of ``CocoDataset``, of any scope."""
    return bool([*_find([dataset], 'CocoDataset')])


def _read_classes(dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the classes of a data set as mmengine does: a list, the lines of a file, or mmdet's own."""
    classes = (dataset.get('metainfo') or {}).get('classes')
    if classes is None:
        classes = DATASETS.get('mmdet.CocoDataset').METAINFO['classes']
    elif isinstance(classes, str):
        if not os.path.isfile(classes):
            raise ValueError(f'metainfo.classes={classes!r} must be a list; of one class: ({classes!r},), with a comma')
        classes = Path(classes).read_text().splitlines()
    if not all(isinstance(name, str) for name in classes) or len(set(classes)) < len(classes):
        raise ValueError(f'metainfo.classes must be different names in quotes, but is {list(classes)}')
    return tuple(classes)


def _open(path: str, folder: str, classes: tuple[str, ...], options: dict) -> tuple[str, dict, list[str]]:
    """Return the path to read, facts and warnings of :func:`clean_coco`, from memory while no file has changed."""
    found = os.stat(path)
    recipe = [_VERSION, *map(os.path.abspath, (path, folder)), found.st_size, found.st_mtime_ns, classes, options]
    base = cache_folder() / 'annotations' / f'{Path(path).stem}-{_digest(recipe)}'
    memory, copy = Path(f'{base}.memory'), Path(f'{base}.json')
    files: list[str] = []

    def scan(names: list[str]) -> list[ImageFacts]:
        files[:] = names
        return scan_images([os.path.abspath(os.path.join(folder, name)) for name in names])

    if (known := recall(memory)) and known['images'] == _digest(scan(known['files'])):
        if known['checksum'] == _checksum(known['target'], path):
            return known['target'], known['facts'], known['warnings']
        print_log(f'{copy} is damaged, it is made anew', 'current', logging.WARNING)
    try:
        data = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f'no JSON file: {error}') from error
    clean, facts, warnings = clean_coco(data, classes, scan, **options)
    target = path if clean is data else str(copy)
    if clean is not data:
        if copy.is_dir():
            shutil.rmtree(copy)
        with atomic_write(copy) as temporary:
            temporary.write_text(json.dumps(clean))
    known = dict(target=target, facts=facts, warnings=warnings, files=files, images=_digest(scan(files)))
    remember(memory, {**known, 'checksum': _checksum(target, path)})
    return target, facts, warnings


def _checksum(target: str, path: str) -> int:
    """Return a copy's CRC-32; 0 if there is none to be read, or the file itself is used."""
    return 0 if target == path or not os.path.isfile(target) else zlib.crc32(Path(target).read_bytes())


def _digest(values: Any) -> str:
    return hashlib.sha256(repr(values).encode(errors='surrogateescape')).hexdigest()[:16]


def _find(node: Any, name: str) -> Iterator[Any]:
    """Yield the configs below a node whose type has a name, in any scope."""
    if isinstance(node, Mapping):
        if str(getattr(node.get('type'), '__name__', node.get('type'))).rpartition('.')[2] == name:
            yield node
        node = list(node.values())
    for child in node if isinstance(node, (list, tuple)) else ():
        yield from _find(child, name)
