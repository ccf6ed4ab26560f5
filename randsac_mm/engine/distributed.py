"""Several processes, and synchronised batch norm, on a machine without an accelerator."""

import gc
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, get_rank, init_dist

Result = TypeVar('Result')


def prepare_cpu_processes(cfg: Config) -> None:
    """Connect CPU processes by gloo, where mmengine would assign a GPU; call it before the runner is built.

    ``cfg.model_wrapper_cfg`` is changed.

    Raises:
        ValueError: If the processes were not started by torchrun.
    """
    launcher = cfg.get('launcher', 'none')
    if launcher in ('none', None) or get_device() != 'cpu':
        return
    missing = [name for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE') if name not in os.environ]
    if launcher != 'pytorch' or missing:
        lack = ', '.join(missing) if launcher == 'pytorch' else 'a GPU'
        raise ValueError(f'--launcher {launcher} needs {lack}; start CPU processes by tools/dist_train.sh')
    if not torch.distributed.is_initialized():
        seconds = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout', 1800)
        torch.distributed.init_process_group('gloo', timeout=timedelta(seconds=seconds))

    cfg['model_wrapper_cfg'] = {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
        **(cfg.get('model_wrapper_cfg') or {}),
        'device_ids': None,
    }


def connect(cfg: Config) -> None:
    """Connect the processes of a run, if there are several, as mmengine does when it builds the runner."""
    prepare_cpu_processes(cfg)
    if cfg.get('launcher', 'none') != 'none' and not torch.distributed.is_initialized():
        init_dist(cfg.launcher, **(cfg.get('env_cfg') or {}).get('dist_cfg', {}))


def on_first_rank(work: Callable[[], Result]) -> Result:
    """Run something on the first rank and return its result on all; if it fails, the others raise RuntimeError."""
    outcome: list[Any] = [None, None]
    failure = None
    if get_rank() == 0:
        try:
            outcome[0] = work()
        except Exception as error:  # the others wait for an answer
            failure, outcome[1] = error, f'failed on rank 0: {type(error).__name__}: {error}'
    broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        raise RuntimeError(outcome[1])
    return outcome[0]


def leave_process_group() -> None:
    """Disconnect the processes of a run, together."""
    if torch.distributed.is_initialized():
        gc.collect()  # ends DistributedDataParallel's use of the group
        torch.distributed.barrier()  # gloo aborts a process that is still sending when another has gone
        torch.distributed.destroy_process_group()


def replace_sync_bn(cfg: Config) -> str | None:
    """Replace synchronised batch norm where there is no accelerator; call it before the runner is built.

    torch and mmcv synchronise batch norm on accelerators only. Every ``type='SyncBN'`` and ``'MMSyncBN'`` in
    ``cfg.model`` becomes ``'BN'``, with the same parameters, and mmengine's ``cfg.sync_bn`` is switched off. Returns a
    line for the log, or None.
    """
    if get_device() != 'cpu':
        return None
    replaced = _replace(cfg.get('model'))
    if cfg.get('sync_bn') is not None:
        replaced.append(f'sync_bn={cfg.sync_bn!r}')
        cfg.sync_bn = None
    if not replaced:
        return None
    return (
        f'No accelerator: batch norm is not synchronised ({", ".join(replaced)} in the config became BN). Each process '
        'normalises by its own batch and keeps its own averages; the checkpoint contains those of the first'
    )


def _replace(node: Any) -> list[str]:
    """Walk through dicts and sequences; return the types that were replaced."""
    if isinstance(node, (list, tuple)):
        return [name for item in node for name in _replace(item)]
    if not isinstance(node, dict):
        return []
    replaced = []
    name = str(node.get('type')).rpartition('.')[2]
    if name == 'ViTPyramid' and node.get('norm_cfg') is None:  # its default is SyncBN
        node['norm_cfg'] = dict(type='SyncBN', requires_grad=True)
    if name in ('SyncBN', 'MMSyncBN'):
        replaced.append(node['type'])
        node['type'] = 'BN'
    return replaced + _replace(list(node.values()))
