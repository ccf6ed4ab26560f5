"""What model, loaders and evaluators of a config expect of the data sets."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .data_report import DataReport, name_some

_POOLING = ('UPerHead', 'PSPHead', 'ClsBatchNormNeck')  # batch norm of one value an image


def find_num_classes(cfg: Mapping[str, Any]) -> dict[str, int]:
    """Return every number of classes that model, preprocessor and evaluators are set to, by key.

    Example:
        >>> find_num_classes(dict(model=dict(decode_head=dict(num_classes=150), rpn_head=dict(num_classes=1))))
        {'model.decode_head.num_classes': 150}
    """
    keys = ('model', 'data_preprocessor', 'val_evaluator', 'test_evaluator')
    found = [entry for part in keys for entry in _find(part, cfg.get(part), 'num_classes')]
    return {key: node['num_classes'] for key, node in found if node['num_classes'] and 'rpn_head' not in key}


def check_num_classes(report: DataReport, expected: Mapping[str, int]) -> None:
    """Add an error for each number of the model that is not the number of the data set's classes."""
    classes = list(report.facts['classes'])
    report.errors += [
        f'{key}={number}, but {report.name} has {len(classes)} classes ({name_some(classes)}): set it to {len(classes)}'
        for key, number in expected.items()
        if number != len(classes)
    ]


def check_most_instances(cfg: Mapping[str, Any], report: DataReport) -> None:
    """Add a warning if an image has more instances than the model may find."""
    most = report.facts.get('most_instances', 0)
    limits = {key: node['max_per_img'] for key, node in _find('model', cfg.get('model'), 'max_per_img')}
    report.warnings += [
        f'{key}={limit}, but {report.name} has {most} instances in one image: raise it'
        for key, limit in limits.items()
        if limit < most
    ]


def check_loader(cfg: Mapping[str, Any], reports: Sequence[DataReport]) -> None:
    """Add errors for a training set that does not fill a batch, and for batches of one image with batch norm."""
    found = [report for report in reports if report.name.startswith('train_dataloader.')]
    if not found or not all('images' in report.facts for report in found):
        return
    loader, report = cfg['train_dataloader'], found[0]
    images, node = sum(report.facts['images'] for report in found), loader['dataset']
    while isinstance(node, dict):
        images, node = images * node.get('times', 1), node.get('dataset')
    batch, processes = loader.get('batch_size', 1), int(os.environ.get('WORLD_SIZE', 1))
    endless = 'Infinite' in str((loader.get('sampler') or {}).get('type'))
    if images < batch * processes and loader.get('drop_last') and not endless:
        report.errors.append(
            f'train_dataloader.batch_size={batch} x {processes} process(es) is more than the {images} images of '
            f'{report.name}, so that no batch is complete: set it to {max(1, images // processes)} or less'
        )
    types = {str(node['type']).rpartition('.')[2] for _, node in _find('model', cfg.get('model'), 'type')}
    norms = {name for name in types if name.endswith(('BN', 'BN1d', 'BN2d', 'ClsBatchNormNeck'))}
    pooling = sorted(types & set(_POOLING))
    alone = batch == 1 or (not loader.get('drop_last') and not endless and images // processes % batch == 1)
    if pooling and norms and alone and (processes == 1 or norms != {'SyncBN'}):
        report.errors.append(
            f'train_dataloader.batch_size={batch}: of {images} images a batch of one remains, and {pooling[0]} needs '
            'two for its batch norm: choose another size, drop_last=True, or group norm (norm_cfg)'
        )


def find_ignored_label(cfg: Mapping[str, Any], report: DataReport) -> int:
    """Return the label that heads, padding and evaluators of mmseg ignore; add an error unless it is one."""
    model, ignored = cfg.get('model') or {}, 255
    heads = {key: model[key] for key in ('decode_head', 'auxiliary_head') if model.get(key)}
    nodes = {f'model.{key}': head for key, head in heads.items() if isinstance(head, dict)}
    nodes |= {
        key: node for part in ('val_evaluator', 'test_evaluator') for key, node in _find(part, cfg.get(part), 'type')
    }
    found = {f'{key.removesuffix(".type")}.ignore_index': node.get('ignore_index', 255) for key, node in nodes.items()}
    found['model.data_preprocessor.seg_pad_val'] = (model.get('data_preprocessor') or {}).get('seg_pad_val', 255)
    if len(set(found.values())) == 1:
        ignored = found.popitem()[1]
    else:
        report.errors.append(
            f'{", ".join(f"{key}={value}" for key, value in found.items())}: one label must be ignored by all. '
            'Leave them at 255 and name the value of unlabelled pixels in the data: SegmentationFolder(unlabelled=...)'
        )
    report.facts['ignored_label'] = ignored
    return ignored


def limit_top_k(cfg: Mapping[str, Any], reports: Sequence[DataReport]) -> None:
    """Remove from classifiers the top-k accuracies with k above the number of classes, with a warning."""
    report = next((report for report in reports if report.facts.get('classes')), None)
    if report is None or cfg.get('default_scope') != 'mmpretrain':
        return
    count = len(report.facts['classes'])
    parts = {'model.head': (cfg.get('model') or {}).get('head')}
    parts |= {part: cfg.get(part) for part in ('val_evaluator', 'test_evaluator')}
    for part in parts:
        for _, node in _find(part, parts[part], 'topk'):
            ranks = (node['topk'],) if isinstance(node['topk'], int) else tuple(node['topk'] or ())
            kept = tuple(k for k in ranks if k <= count)
            if kept != ranks:
                node['topk'] = kept or (1,)
                report.warnings.append(f'{part}: top-{max(ranks)} accuracy is left out: there are {count} classes')


def _find(key: str, node: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every dict that has an entry of a name, in a tree of dicts and sequences, with the entry's dotted key."""
    if isinstance(node, dict) and name in node:
        yield f'{key}.{name}', node
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for inner, value in items:
        yield from _find(f'{key}.{inner}', value, name)
