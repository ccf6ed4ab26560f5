"""Several processes, and synchronised batch norm, on a machine without an accelerator."""

import gc
import os
from collections import Counter
from datetime import timedelta
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device

_SYNCHRONISED = ('SyncBN', 'MMSyncBN')


def prepare_cpu_processes(cfg: Config) -> None:
    """Connect CPU processes that torchrun has started; call it before the runner is built.

    mmengine assigns a GPU to every process, and fails where there is none. Here the processes are connected by gloo
    beforehand, which mmengine respects, and the model is wrapped without a device. Nothing happens if ``cfg.launcher``
    is ``'none'`` or an accelerator is present.

    Args:
        cfg: The config of the run; ``model_wrapper_cfg`` or ``strategy.model_wrapper`` is changed.

    Raises:
        ValueError: If the processes were not started by torchrun.
    """
    launcher = cfg.get('launcher', 'none')
    if launcher in ('none', None) or get_device() != 'cpu':
        return
    missing = [name for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE') if name not in os.environ]
    if launcher != 'pytorch' or missing:
        lack = f'{", ".join(missing)} in the environment' if launcher == 'pytorch' else 'a GPU'
        raise ValueError(
            f'--launcher {launcher} needs {lack}; start CPU processes by tools/dist_train.sh, or by torchrun and '
            '--launcher pytorch'
        )
    if not torch.distributed.is_initialized():
        seconds = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout', 1800)
        torch.distributed.init_process_group('gloo', timeout=timedelta(seconds=seconds))

    wrapper = {'type': 'MMDistributedDataParallel', 'broadcast_buffers': False}
    if cfg.get('strategy') is not None:
        if cfg.strategy.get('type', 'DDPStrategy') == 'DDPStrategy':
            cfg.strategy['model_wrapper'] = {**wrapper, **(cfg.strategy.get('model_wrapper') or {}), 'device_ids': None}
        return
    wrapper['find_unused_parameters'] = cfg.get('find_unused_parameters', False)
    cfg['model_wrapper_cfg'] = {**wrapper, **(cfg.get('model_wrapper_cfg') or {}), 'device_ids': None}


def leave_process_group() -> None:
    """Disconnect the processes of a run, together.

    Without the barrier a process may still be sending when another has gone; gloo then aborts it, after its work is
    done but with an error status. The collection ends DistributedDataParallel's use of the group before the group ends.
    """
    if torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def replace_sync_bn(cfg: Config) -> str | None:
    """Replace synchronised batch norm where there is no accelerator; call it before the runner is built.

    torch and mmcv synchronise batch norm on accelerators only, and raise in several CPU processes. Every
    ``type='SyncBN'`` and ``'MMSyncBN'`` in ``cfg.model`` becomes ``'BN'``, whose parameters have the same names and
    shapes, and ``sync_bn``, by which mmengine turns BN into SyncBN, is switched off. Where an accelerator is present
    nothing happens.

    Args:
        cfg: The config of the run; ``model``, ``sync_bn`` and ``strategy.sync_bn`` are changed.

    Returns:
        A line for the log with what was replaced, or None if nothing was.

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
        'its own batch and keeps its own averages; the checkpoint contains those of the first'
    )


def _replace(node: Any, replaced: Counter[str]) -> None:
    """Walk through dicts and sequences; anything else, as a model that is already built, stays."""
    if isinstance(node, (list, tuple)):
        for item in node:
            _replace(item, replaced)
    elif isinstance(node, dict):
        kind = node.get('type')
        name = kind.rpartition('.')[2] if isinstance(kind, str) else None
        if name == 'ViTPyramid' and node.get('norm_cfg') is None:  # its default is SyncBN
            node['norm_cfg'] = dict(type='SyncBN', requires_grad=True)
        if name in _SYNCHRONISED:
            replaced[kind] += 1
            node['type'] = 'BN'
        for item in node.values():
            _replace(item, replaced)
