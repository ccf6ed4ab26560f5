"""Several processes without a GPU; with one, mmengine's own start-up is left alone."""

import gc
import os
import subprocess
from datetime import timedelta

import torch
from mmengine.config import Config
from mmengine.device import get_device

_VARIABLES = {
    'pytorch': {'RANK': 'RANK', 'LOCAL_RANK': 'LOCAL_RANK', 'WORLD_SIZE': 'WORLD_SIZE'},
    'slurm': {'RANK': 'SLURM_PROCID', 'LOCAL_RANK': 'SLURM_LOCALID', 'WORLD_SIZE': 'SLURM_NTASKS'},
    'mpi': {
        'RANK': 'OMPI_COMM_WORLD_RANK',
        'LOCAL_RANK': 'OMPI_COMM_WORLD_LOCAL_RANK',
        'WORLD_SIZE': 'OMPI_COMM_WORLD_SIZE',
    },
}


def prepare_cpu_processes(cfg: Config) -> None:
    """Make ``cfg.launcher`` work on a machine without an accelerator; call it before the runner is built.

    mmengine assigns a GPU to every process it starts, and fails where there is none. Here the processes are connected
    by gloo beforehand, which mmengine respects, and the model is wrapped without a device. Nothing happens if
    ``cfg.launcher`` is ``'none'`` or an accelerator is present.

    Args:
        cfg: The config of the run; ``model_wrapper_cfg`` or ``strategy.model_wrapper`` is changed.

    Raises:
        ValueError: If the launcher is unknown, or its environment variables are missing.
    """
    launcher = cfg.get('launcher', 'none')
    if launcher in ('none', None) or get_device() != 'cpu':
        return
    _set_environment(launcher)
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


def _set_environment(launcher: str) -> None:
    """Set the variables from which torch and mmengine read rank, world size and the address of rank 0."""
    if launcher not in _VARIABLES:
        raise ValueError(f'launcher={launcher!r} is unknown; choose one of none, {", ".join(_VARIABLES)}')
    missing = [name for name in _VARIABLES[launcher].values() if name not in os.environ]
    if missing:
        start = {'pytorch': 'torchrun or tools/dist_train.sh', 'slurm': 'srun', 'mpi': 'mpirun'}[launcher]
        raise ValueError(f'--launcher {launcher} needs {", ".join(missing)} in the environment; start it by {start}')
    for name, source in _VARIABLES[launcher].items():
        os.environ[name] = os.environ[source]
    if launcher == 'slurm' and 'MASTER_ADDR' not in os.environ:
        command = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
        hosts = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        os.environ['MASTER_ADDR'] = hosts.split()[0]
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', '29500')
