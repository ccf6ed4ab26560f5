"""Turn the contents of a checkpoint into tensors and plain Python values, and back.

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
    """Make a copy of ``value`` that ``torch.load(weights_only=True)`` accepts.

    Tensors are kept as they are (not copied). Numpy arrays and scalars, ``HistoryBuffer``, ``Counter``, other
    subclasses of ``dict``, named tuples and paths are replaced. What has no plain form is left out.

    Args:
        value: Any nested value.
        path: Name of ``value`` inside the checkpoint, for ``dropped``.
        dropped: Receives the names of the entries that were left out.

    Returns:
        The plain copy; ``None`` if ``value`` itself has no plain form.

    Example:
        >>> to_plain({'best': np.float64(0.5), 'sizes': (1, 2)})
        {'best': 0.5, 'sizes': (1, 2)}
        >>> gone = []
        >>> to_plain({'open': 1, 'file': object()}, dropped=gone), gone
        ({'open': 1}, ['file'])
    """
    dropped = [] if dropped is None else dropped
    result = _encode(value, path, dropped)
    return None if result is _DROP else result


def from_plain(value: Any) -> Any:
    """Undo :func:`to_plain`: bring back arrays, ``HistoryBuffer`` and ``Counter``; leave everything else alone.

    Args:
        value: What :func:`to_plain` returned, possibly saved, loaded and moved to a device in between.

    Returns:
        The value with its original types (numpy scalars come back as Python numbers, paths as strings).

    Raises:
        ValueError: If the value holds a mark that this version does not know.
    """
    if isinstance(value, dict):
        if MARK in value:
            return _decode_marked(value)
        return _like(value, [(k, from_plain(v)) for k, v in value.items()])
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
        return _encode_array(value, path, dropped)
    if isinstance(value, HistoryBuffer):
        values, counts = (torch.from_numpy(np.array(part)) for part in value.data)
        return {MARK: 'history', 'values': values, 'counts': counts, 'max_length': value.max_length}
    if isinstance(value, Counter):
        return {MARK: 'counter', 'items': [list(item) for item in value.items()]}
    if isinstance(value, dict):
        items = [(_encode(k, path, dropped), _encode(v, f'{path}.{k}'.lstrip('.'), dropped)) for k, v in value.items()]
        return _like(value, [(k, v) for k, v in items if k is not _DROP and v is not _DROP])
    if isinstance(value, (list, tuple, set, frozenset)):
        kind = next(k for k in (list, tuple, set, frozenset) if isinstance(value, k))
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


def _encode_array(value: np.ndarray, path: str, dropped: list[str]) -> Any:
    try:
        return {MARK: 'array', 'data': torch.from_numpy(np.array(value))}
    except (TypeError, ValueError):  # strings, objects, foreign byte orders
        pass
    return {MARK: 'list_array', 'data': _encode(value.tolist(), path, dropped)}


def _decode_marked(value: dict) -> Any:
    kind = value[MARK]
    if kind == 'array':
        return value['data'].cpu().numpy()
    if kind == 'list_array':
        return np.array(from_plain(value['data']))
    if kind == 'counter':
        return Counter(dict(value['items']))
    if kind == 'history':
        values, counts = value['values'].cpu().numpy(), value['counts'].cpu().numpy()
        return HistoryBuffer(values, counts, value['max_length'])
    raise ValueError(f'the checkpoint holds {MARK}={kind!r}, which this version cannot read; upgrade randsac_mm')


def _like(value: dict, items: list[tuple]) -> dict:
    """Make a ``dict`` or ``OrderedDict`` with ``value``'s attributes (``_metadata`` of a state dict)."""
    if not isinstance(value, OrderedDict):
        return dict(items)
    copy = OrderedDict(items)
    copy.__dict__.update(value.__dict__)
    return copy
