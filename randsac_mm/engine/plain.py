"""Convert the contents of a checkpoint to tensors and plain Python values, and back.

``torch.load(weights_only=True)`` refuses everything else. mmengine puts numpy scalars and arrays and its own
``HistoryBuffer`` into checkpoints; here they become dictionaries marked with :data:`MARK`.
"""

from collections import Counter, OrderedDict
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

MARK = '__randsac_mm__'
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device)
_DROP = object()


def to_plain(value: Any, path: str = '', dropped: list[str] | None = None) -> Any:
    """Return a copy of ``value`` that ``torch.load(weights_only=True)`` accepts.

    Tensors are kept as they are (not copied). Numpy arrays and scalars, ``HistoryBuffer``, ``Counter``, other
    subclasses of ``dict``, named tuples and paths are replaced. What has no plain form is omitted.

    Args:
        value: Any nested value.
        path: Name of ``value`` inside the checkpoint, for ``dropped``.
        dropped: Receives the names of the entries that were omitted.

    Returns:
        The plain copy; ``None`` if ``value`` itself has no plain form.

    Example:
        >>> to_plain({'best': np.float64(0.5), 'sizes': (1, 2)})
        {'best': 0.5, 'sizes': (1, 2)}
        >>> gone = []
        >>> to_plain({'open': 1, 'file': object()}, dropped=gone), gone
        ({'open': 1}, ['file'])
    """
    result = _encode(value, path, [] if dropped is None else dropped)
    return None if result is _DROP else result


def from_plain(value: Any) -> Any:
    """Undo :func:`to_plain`: bring back arrays, ``HistoryBuffer`` and ``Counter``; leave everything else alone.

    Args:
        value: What :func:`to_plain` returned, possibly saved, loaded and moved to a device in between.

    Returns:
        The value with its original types (numpy scalars come back as Python numbers, paths as strings).

    Raises:
        ValueError: If a mark is unknown to this version.
    """
    if isinstance(value, dict):
        if MARK in value:
            return _decode(value)
        return _like(value, {k: from_plain(v) for k, v in value.items()})
    if type(value) in (list, tuple, set):
        return type(value)(from_plain(v) for v in value)
    return value


def _encode(value: Any, path: str, dropped: list[str]) -> Any:
    if type(value) in _PLAIN or isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.generic):
        item = value.item()  # still a numpy scalar for types that Python lacks
        return _encode(str(item) if isinstance(item, np.generic) else item, path, dropped)
    if isinstance(value, np.ndarray):
        try:
            return {MARK: 'array', 'data': torch.from_numpy(np.array(value))}
        except (TypeError, ValueError):  # strings, objects, foreign byte orders
            return {MARK: 'list_array', 'data': _encode(value.tolist(), path, dropped)}
    if isinstance(value, HistoryBuffer):
        values, counts = (torch.from_numpy(np.array(part)) for part in value.data)
        return {MARK: 'history', 'values': values, 'counts': counts, 'max_length': value.max_length}
    if isinstance(value, Counter):
        return {MARK: 'counter', 'items': [list(item) for item in value.items()]}
    if isinstance(value, dict):
        items = {k: _encode(v, f'{path}.{k}'.lstrip('.'), dropped) for k, v in value.items()}
        plain = {_encode(k, path, dropped): v for k, v in items.items() if v is not _DROP}
        plain.pop(_DROP, None)
        return _like(value, plain)
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            parts = [_encode(v, f'{path}[{i}]', dropped) for i, v in enumerate(value)]
            # A hole would shift what follows it, so a sequence keeps its length.
            return (set if kind is frozenset else kind)(None if p is _DROP else p for p in parts)
    if isinstance(value, PurePath):
        return str(value)
    for base in (bool, int, float, str, bytes):  # a subclass, such as an enumeration's member
        if isinstance(value, base):
            return base(value)
    dropped.append(path)
    return _DROP


def _decode(value: dict) -> Any:
    match value[MARK]:
        case 'array':
            return value['data'].cpu().numpy()
        case 'list_array':
            return np.array(from_plain(value['data']))
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
