"""Batch norm that is synchronised between processes, where there is no GPU to do it."""

from collections import Counter
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device

_SYNCHRONISED = ('SyncBN', 'MMSyncBN')


def replace_sync_bn(cfg: Config) -> str | None:
    """Let a config with synchronised batch norm run without an accelerator; call it before the runner is built.

    torch and mmcv synchronise batch norm on accelerators only, and raise in several CPU processes. Here every
    ``type='SyncBN'`` and ``'MMSyncBN'`` in ``cfg.model`` becomes ``'BN'``, whose parameters have the same names and
    shapes, and ``sync_bn``, by which mmengine turns BN into SyncBN, is switched off. Where an accelerator is present
    nothing happens.

    Args:
        cfg: The config of the run; ``model``, ``sync_bn`` and ``strategy.sync_bn`` are changed.

    Returns:
        A line for the log that says what was replaced, or None if nothing was.

    Example:
        >>> cfg = Config(dict(model=dict(neck=dict(norm_cfg=dict(type='SyncBN')), heads=[dict(norm=dict(type='LN'))])))
        >>> note = replace_sync_bn(cfg)
        >>> cfg.model.neck.norm_cfg, cfg.model.heads[0].norm  # on a machine without an accelerator
        ({'type': 'BN'}, {'type': 'LN'})
    """
    if get_device() != 'cpu':
        return None
    replaced: Counter[str] = Counter()
    _replace(cfg.get('model'), replaced)
    for holder in (cfg, cfg.get('strategy') or {}):
        if holder.get('sync_bn') is not None:
            replaced[f'sync_bn={holder["sync_bn"]!r}'] += 1
            holder['sync_bn'] = None
    if not replaced:
        return None
    what = ', '.join(f'{count} x {name}' for name, count in replaced.items())
    return (
        f'No accelerator: batch norm is not synchronised ({what} in the config became BN). Each process normalises by '
        'the images of its own batch and keeps its own averages; the checkpoint holds those of the first'
    )


def _replace(node: Any, replaced: Counter[str]) -> None:
    """Walk through dicts and sequences; what is neither, as a model that is already built, is left alone."""
    if isinstance(node, (list, tuple)):
        for item in node:
            _replace(item, replaced)
    elif isinstance(node, dict):
        kind = node.get('type')
        # The pyramid's default is SyncBN as well.
        if isinstance(kind, str) and kind.rpartition('.')[2] == 'ViTPyramid' and node.get('norm_cfg') is None:
            node['norm_cfg'] = dict(type='SyncBN', requires_grad=True)
        if isinstance(kind, str) and kind.rpartition('.')[2] in _SYNCHRONISED:
            replaced[kind] += 1
            node['type'] = 'BN'
        for item in node.values():
            _replace(item, replaced)
