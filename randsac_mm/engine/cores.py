"""How many CPU cores there are for this process, and how many workers should load its data."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config

_CGROUP = Path('/sys/fs/cgroup/cpu.max')  # a container's share of the machine: 'microseconds period' or 'max period'
_LOCAL_PROCESSES = ('LOCAL_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_SIZE', 'SLURM_NTASKS_PER_NODE')


def cores_per_process(environment: Mapping[str, str] | None = None) -> int:
    """Count the CPU cores that this process may use while the others of its run use theirs.

    It respects the cores that the system, a container or Slurm has set apart, and divides what is left by the number of
    processes that the launcher has started on this machine.

    Args:
        environment: Environment variables; default: those of the process.

    Returns:
        A number of cores, at least 1.

    Example:
        >>> cores_per_process({'SLURM_CPUS_PER_TASK': '1'})
        1
    """
    environment = os.environ if environment is None else environment
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    cores = min(cores, _container_limit(_CGROUP))
    names = _LOCAL_PROCESSES
    if 'SLURM_CPUS_PER_TASK' in environment:  # set apart for one task, which may be a launcher of several processes
        cores = min(cores, int(environment['SLURM_CPUS_PER_TASK']))
        names = _LOCAL_PROCESSES[:1]
    processes = next((int(environment[name]) for name in names if name in environment), 1)
    return max(1, cores // max(1, processes))


def fit_workers(cfg: Config, options: Mapping[str, object]) -> None:
    """Set ``train_dataloader.num_workers`` to what the machine has, if the config has ``auto_num_workers``.

    That is one worker for each core of the process but one, which runs the training, and at most ``auto_num_workers``,
    since every worker holds two batches in shared memory. Nothing changes without worker processes (0), or if the
    command line gives their number.

    Args:
        cfg: The config of the run.
        options: ``--cfg-options``.

    Raises:
        ValueError: If ``auto_num_workers`` is not a positive integer or None.
    """
    most = cfg.get('auto_num_workers')
    if most is None:
        return
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise ValueError(f'auto_num_workers={most!r} must be the largest number of workers, as 16, or None')
    loader = cfg.get('train_dataloader')
    if loader and loader.get('num_workers') and 'train_dataloader.num_workers' not in options:
        loader.num_workers = max(1, min(most, cores_per_process() - 1))


def _container_limit(path: Path) -> float:
    """Read how many cores a container may use at a time."""
    try:
        quota, period = path.read_text().split()
    except (OSError, ValueError):
        return math.inf
    return math.inf if quota == 'max' else math.ceil(int(quota) / int(period))
