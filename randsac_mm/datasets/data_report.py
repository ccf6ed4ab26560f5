"""What a check finds in a data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_NAMED = 10


class DataError(ValueError):
    """Errors in data sets, a line each."""


@dataclass
class DataReport:
    """What a check finds in a data set.

    Attributes:
        name: The key of the data set in the config, such as ``'train_dataloader.dataset'``.
        facts: What is in it, in plain values for JSON.
        errors: Why it must not be used: a line each, that begins with the file or key.
        warnings: What is left out or looks wrong: a line each.
    """

    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def name_some(names: Sequence[Any]) -> str:
    """Return the first ten of several names, and how many more there are.

    Example:
        >>> name_some(['a.png', 'b.png'])
        'a.png, b.png'
    """
    more = f' and {len(names) - _NAMED:,} more' if len(names) > _NAMED else ''
    return ', '.join(map(str, names[:_NAMED])) + more


def find_datasets(cfg: Mapping[str, Any], parts: Sequence[str] = ('train', 'val', 'test')) -> dict[str, Any]:
    """Return the data sets of a config without their wrappers: the nodes of the config itself, by key.

    Args:
        cfg: The config.
        parts: Which data loaders; with ``'train'`` also the data sets of ``OnlineProbeHook``.

    Example:
        >>> loader = dict(dataset=dict(type='RepeatDataset', times=2, dataset=dict(type='Digits')))
        >>> find_datasets(dict(train_dataloader=loader))
        {'train_dataloader.dataset.dataset': {'type': 'Digits'}}
    """
    found: dict[str, Any] = {}

    def walk(key: str, node: Any) -> None:
        inner = {'dataset': node.get('dataset')} if isinstance(node.get('dataset'), dict) else {}
        inner |= {f'datasets.{index}': part for index, part in enumerate(node.get('datasets') or ())}
        for name, part in inner.items():
            walk(f'{key}.{name}', part)
        if not inner:
            found[key] = node

    for part in parts:
        if (cfg.get(f'{part}_dataloader') or {}).get('dataset'):
            walk(f'{part}_dataloader.dataset', cfg[f'{part}_dataloader']['dataset'])
    for index, hook in enumerate(cfg.get('custom_hooks') or ()):
        if 'train' in parts and str(hook.get('type')).endswith('OnlineProbeHook'):
            for part in ('train', 'test'):
                walk(f'custom_hooks.{index}.{part}', hook[part])
    return found


def format_report(report: DataReport, brief: bool = False) -> str:
    """Return a report as text for people; brief: without the classes."""
    facts = report.facts
    lines = [f'{report.name}: ' + ', '.join(_describe(facts))]
    if facts.get('classes') and not brief:
        units = [
            unit for unit in ('images', 'instances', 'pixels') if any(unit in c for c in facts['classes'].values())
        ]
        width = max(map(len, facts['classes'])) + 2
        lines.append(f'  {"class":<{width}}' + ''.join(f'{unit:>16}' for unit in units))
        for name, counts in facts['classes'].items():
            lines.append(f'  {name:<{width}}' + ''.join(f'{counts.get(unit, 0):>16,}' for unit in units))
    lines += [f'  warning: {text}' for text in report.warnings] + [f'  error: {text}' for text in report.errors]
    return '\n'.join(lines)


def _describe(facts: Mapping[str, Any]) -> list[str]:
    words = [str(facts['type'])] if 'type' in facts else []
    words += [f'{key}={value}' for key, value in facts.get('num_classes', {}).items()]
    if 'images' in facts:
        modes = ', '.join(f'{mode} {count:,}' for mode, count in facts['modes'].items())
        words += [
            f'{facts["images"]:,} images ({modes})',
            f'sides {facts["shortest_side"]} to {facts["longest_side"]} px',
        ]
        words += [f'{facts["turned_by_exif"]:,} turned by EXIF'] if facts['turned_by_exif'] else []
        words += [f'{sum(map(len, facts["skipped"].values())):,} files skipped']
    if 'unlabelled_pixels' in facts:
        words.append(f'{facts["unlabelled_pixels"]:,} pixels unlabelled')
    return words + ([f'{len(facts["classes"])} classes'] if facts.get('classes') else [])
