"""Cores, worker processes and memory of a run."""

import ctypes
import math
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config

_CGROUP = Path('/sys/fs/cgroup/cpu.max')  # a container's share of the machine: 'microseconds period' or 'max period'
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of options in glibc's malloc.h
_MOST = 2**31 - 1  # bytes


def cores_per_process() -> int:
    """Return the number of CPU cores for this process: its share of what system, container and Slurm allow."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    cores = min(cores, _container_limit())
    processes = os.environ.get('LOCAL_WORLD_SIZE') or os.environ.get('SLURM_NTASKS_PER_NODE', '1')
    if 'SLURM_CPUS_PER_TASK' in os.environ:  # of one task, which may be a torchrun with several processes
        cores = min(cores, int(os.environ['SLURM_CPUS_PER_TASK']))
        processes = os.environ.get('LOCAL_WORLD_SIZE', '1')
    return max(1, cores // int(processes))


def fit_workers(cfg: Config, options: Mapping[str, object]) -> None:
    """Set ``train_dataloader.num_workers`` to what the machine has, if the config has ``auto_num_workers``.

    That is one worker for each core of the process but one, which runs the training, and at most ``auto_num_workers``,
    since every worker keeps two batches in shared memory. Nothing changes without worker processes (0), or if the
    options, ``--cfg-options``, set their number. A data loader without workers loses its settings of workers, which
    torch would refuse.

    Raises:
        ValueError: If ``auto_num_workers`` is not a positive integer or None.
    """
    for name, loader in cfg.items():
        if name.endswith('_dataloader') and isinstance(loader, dict) and not loader.get('num_workers'):
            for setting in ('persistent_workers', 'prefetch_factor'):
                loader.pop(setting, None)
    most = cfg.get('auto_num_workers')
    if most is None:
        return
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise ValueError(f'auto_num_workers={most!r} must be the largest number of workers, as 16, or None')
    loader = cfg.get('train_dataloader')
    if loader and loader.get('num_workers') and 'train_dataloader.num_workers' not in options:
        loader.num_workers = max(1, min(most, cores_per_process() - 1))


@contextmanager
def ending_workers(runner: Any) -> Iterator[None]:
    """End the worker processes of a runner's data loaders; the garbage collector would later wait 5 s for each."""
    try:
        yield
    finally:
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            # The former has torch's persistent workers, the latter those of IterBasedTrainLoop.
            for source in (getattr(loop, 'dataloader', None), getattr(loop, 'dataloader_iterator', None)):
                if getattr(source, '_iterator', None) is not None:
                    source._iterator = None


def keep_freed_memory() -> None:
    """Keep freed memory in this process, instead of returning it to the system and asking again in every step.

    A training step on a CPU frees and asks for the same gigabytes again and again, and each time the system clears
    them. The price: the process keeps its greatest amount of memory until it ends. Needs glibc.
    """
    if platform.libc_ver()[0] == 'glibc':
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _MOST)
        mallopt(_TRIM_THRESHOLD, _MOST)


def _container_limit() -> float:
    quota, period = _CGROUP.read_text().split() if _CGROUP.is_file() else ('max', '')
    return math.inf if quota == 'max' else math.ceil(int(quota) / int(period))
