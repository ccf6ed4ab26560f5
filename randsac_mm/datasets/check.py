"""Check of the data sets of a config: what is in them, and whether model, loaders and evaluators agree with it."""

import gc
import inspect
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from itertools import groupby
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope, init_default_scope

from .cache import CachedImages
from .coco import is_coco, prepare_coco
from .data_report import DataError, DataReport, find_datasets, name_some
from .images import find_image_files, printable
from .label_checks import check_classes, check_masks
from .model_checks import (
    check_loader,
    check_most_instances,
    check_num_classes,
    find_ignored_label,
    find_num_classes,
    limit_top_k,
)
from .scan import ImageFacts, scan_images

_ARRAYS = ('Digits', 'PreparedCIFAR10', 'CIFAR10', 'CIFAR100')  # of known content, no files of a user
_OF_CACHE = ('source', 'short_side', 'cache_dir')  # arguments of CachedImages that are not its source's


@contextmanager
def _uncollected() -> Iterator[None]:
    """Switch Python's garbage collection off, which takes half of the time where millions of objects are made."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_uncollected()
def check_config(
    cfg: Config, parts: Sequence[str] = ('train', 'val', 'test'), decode: bool = False
) -> list[DataReport]:
    """Check the data sets of a config against their files, and model, loaders and evaluators against the data sets.

    Every annotation is read, and of every image its header. What was found is remembered, see
    :func:`~randsac_mm.datasets.scan.scan_files`. Two things are set right in the config: annotation files in COCO's
    format (:func:`~randsac_mm.datasets.coco.prepare_coco`), and top-k accuracies with k above the number of classes.

    Args:
        cfg: The config; it is changed.
        parts: Which data loaders: ``'train'`` (with the data sets of ``OnlineProbeHook``), ``'val'``, ``'test'``.
        decode: Whether to decode every image completely.

    Returns:
        A report of the model (what it expects) and one of each data set, with errors and warnings.
    """
    scope = cfg.get('default_scope') or 'mmengine'
    init_default_scope(scope)
    model = DataReport('model', {'num_classes': find_num_classes(cfg)})
    ignored = find_ignored_label(cfg, model) if scope == 'mmseg' else 255
    reports = [model]
    with DefaultScope.overwrite_default_scope(scope):
        prepared = {report.name: report for report in prepare_coco(cfg, parts)}
        sources = find_datasets(cfg, parts)
        if cfg.get('test_dataloader') == cfg.get('val_dataloader') and 'val' in parts:
            sources = {name: source for name, source in sources.items() if not name.startswith('test_')}
        # The data loaders share their classes, and so do the two data sets of a probe, which has no head.
        for hook, names in groupby(sources, lambda name: name.startswith('custom_hooks') and name.split('.')[1]):
            found = [
                prepared.pop(name, None) or _check_dataset(name, sources[name], ignored, decode)
                for name in names
                if name in prepared or not is_coco(sources[name])
            ]
            reports += found
            labelled = [report for report in found if report.facts.get('classes')]
            for report in labelled:
                _compare_classes(report, labelled[0])
                if hook is False:
                    check_num_classes(report, model.facts['num_classes'])
                    check_most_instances(cfg, report)
    check_loader(cfg, reports)
    limit_top_k(cfg, reports)
    return reports + list(prepared.values())  # of evaluators


def raise_errors(reports: Sequence[DataReport]) -> None:
    """Raise DataError with all errors, if there are any."""
    errors = [error for report in reports for error in report.errors]
    if errors:
        raise DataError('\n'.join(errors))


def _check_dataset(name: str, source: Mapping[str, Any], ignored: int, decode: bool) -> DataReport:
    report = DataReport(name, {'type': source['type']})
    with DATASETS.switch_scope_and_registry(None) as registry:
        kind = registry.get(source['type'])
    if source['type'] in _ARRAYS:
        report.facts['classes'] = {label: {} for label in kind.METAINFO.get('classes', ())}
    if source['type'] in _ARRAYS or not (inspect.isclass(kind) and issubclass(kind, (BaseDataset, CachedImages))):
        return report
    try:
        dataset = build_dataset(source)
    except Exception as error:  # the libraries' data sets raise anything, from AssertionError to RuntimeError
        report.errors.append(f'{name}: {error}' if isinstance(error, (OSError, ValueError)) else f'{name}: {error!r}')
        return report
    entries = dataset.data_list
    if entries and 'img_path' in entries[0]:
        images = scan_images([entry['img_path'] for entry in entries], decode)
        _describe_images(report, dataset, entries, images)
        if entries[0].get('seg_map_path'):
            check_masks(report, dataset, images, ignored)
    if entries and isinstance(entries[0].get('gt_label'), int):
        check_classes(report, dataset)
    return report


def build_dataset(source: Mapping[str, Any]) -> Any:
    """Build a data set without its pipeline, with all entries in ``data_list``."""
    settings = {key: value for key, value in source.items() if key not in _OF_CACHE}
    if source['type'] == 'CachedImages':
        settings['type'] = source.get('source', 'UnlabelledImageFolder')
    dataset = DATASETS.build({**settings, 'pipeline': [], 'lazy_init': True})
    dataset.serialize_data = False
    with redirect_stdout(StringIO()):  # pycocotools prints
        dataset.full_init()
    return dataset


def _describe_images(report: DataReport, dataset: Any, entries: Sequence[dict], images: Sequence[ImageFacts]) -> None:
    """Add number, kinds and sizes of images, which files are left out, and unreadable images as errors."""
    paths = [entry['img_path'] for entry in entries]
    skipped = getattr(dataset, 'skipped', None)  # ours name what they leave out
    if skipped is None:
        folder, used = os.path.commonpath(map(os.path.dirname, paths)), set(map(os.path.normpath, paths))
        others = [str(path) for path in find_image_files(folder or '.') if str(path) not in used]
        skipped = {'image files that are not used': others}
    skipped = {reason: list(map(printable, names)) for reason, names in skipped.items() if names}
    report.warnings += [f'{report.name}: {len(names)} {why}: {name_some(names)}' for why, names in skipped.items()]
    faults = [f'{printable(path)} ({facts.fault})' for path, facts in zip(paths, images, strict=True) if facts.fault]
    if faults:
        report.errors.append(
            f'{report.name}: {len(faults)} of {len(paths)} images cannot be read: {name_some(faults)}. Repair or '
            "remove them; UnlabelledImageFolder and LabelledImageFolder with check='decode' skip such files"
        )
    sides = [side for facts in images if not facts.fault for side in (facts.height, facts.width)]
    report.facts |= {
        'images': len(paths),
        'skipped': skipped,
        'modes': dict(Counter(facts.mode for facts in images if not facts.fault).most_common()),
        'shortest_side': min(sides, default=0),
        'longest_side': max(sides, default=0),
        'turned_by_exif': sum(facts.orientation > 1 for facts in images),
    }


def _compare_classes(report: DataReport, first: DataReport) -> None:
    ours, theirs = list(report.facts['classes']), list(first.facts['classes'])
    if ours != theirs:
        odd = name_some(sorted(set(ours) ^ set(theirs)) or ['in another order'])
        report.errors.append(
            f'{report.name}: its classes are not those of {first.name}: {odd}. Name the same ones in the same '
            'order, or use LabelledImageFolder, whose classes are always those of the training folder'
        )
