"""Convert the contents of a checkpoint to what ``torch.load(weights_only=True)`` accepts, and back."""

from collections import Counter, OrderedDict
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from randsac_mm.transfer.plain_pickle import MARK

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device)


def to_plain(value: Any, path: str, dropped: list[str]) -> Any:
    """Return a copy of a nested value, of plain Python values and tensors, which are not copied.

    Entries that have no plain form become None; ``dropped`` receives their names, which begin with ``path``.
    """
    if type(value) in _PLAIN or isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        try:
            return {MARK: 'array', 'data': torch.from_numpy(value.copy())}
        except (TypeError, ValueError):  # strings, objects, types that torch lacks
            return {MARK: 'list_array', 'data': to_plain(value.tolist(), path, dropped)}
    if isinstance(value, HistoryBuffer):
        values, counts = (torch.from_numpy(part.copy()) for part in value.data)
        return {MARK: 'history', 'values': values, 'counts': counts, 'max_length': value.max_length}
    if isinstance(value, Counter):
        return {MARK: 'counter', 'items': [list(item) for item in value.items()]}
    if isinstance(value, dict):
        return _like(value, {k: to_plain(v, f'{path}.{k}', dropped) for k, v in value.items()})
    for kind in (list, tuple, set):
        if isinstance(value, kind):
            return kind(to_plain(v, f'{path}[{i}]', dropped) for i, v in enumerate(value))
    if isinstance(value, PurePath):
        return str(value)
    dropped.append(path)
    return None


def from_plain(value: Any) -> Any:
    """Undo :func:`to_plain`: bring back arrays, ``HistoryBuffer`` and ``Counter``; leave everything else alone.

    Raises:
        ValueError: If a mark is unknown to this version.
    """
    if isinstance(value, dict):
        return _decode(value) if MARK in value else _like(value, {k: from_plain(v) for k, v in value.items()})
    if type(value) in (list, tuple):
        return type(value)(from_plain(v) for v in value)
    return value


def _decode(value: dict) -> Any:
    match value[MARK]:
        case 'array':
            return value['data'].cpu().numpy()
        case 'list_array':
            return np.array(value['data'])
        case 'counter':
            return Counter(dict(value['items']))
        case 'history':
            return HistoryBuffer(value['values'].cpu().numpy(), value['counts'].cpu().numpy(), value['max_length'])
    raise ValueError(f'the checkpoint contains {MARK}={value[MARK]!r}, unknown to this version; upgrade randsac_mm')


def _like(value: dict, plain: dict) -> dict:
    """Return ``plain``; if ``value`` is an ``OrderedDict``, as one with its attributes (``_metadata``)."""
    if not isinstance(value, OrderedDict):
        return plain
    copy = OrderedDict(plain)
    copy.__dict__.update(value.__dict__)
    return copy
