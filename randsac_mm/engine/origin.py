"""Origin of a run: command, commit, hardware, versions, date. Written beside its log."""

import contextlib
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine.dist import get_world_size

from randsac_mm.engine.resources import cores_per_process
from randsac_mm.files import atomic_write
from randsac_mm.version import __version__

ORIGIN_FILE = 'origin.json'
_ROOT = Path(__file__).resolve().parents[2]


def describe_origin() -> dict[str, Any]:
    """Return a description of this process in plain values.

    Returns:
        ``command``, ``folder`` (where it was started), ``commit``, ``started`` (UTC), ``hardware``, ``gpus``,
        ``processes``, ``cores`` (CPU cores for each process) and versions.

    Example:
        >>> sorted(describe_origin())[:3]
        ['command', 'commit', 'cores']
    """
    return {
        'command': shlex.join([Path(sys.executable).name, *sys.argv]),
        'folder': str(Path.cwd()),
        'commit': find_commit(),
        'started': datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M:%S UTC'),
        'hardware': processor_name(),
        'gpus': [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        'processes': get_world_size(),
        'cores': cores_per_process(),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'mmengine': mmengine.__version__,
        'randsac_mm': __version__,
    }


def write_origin(folder: str | Path) -> Path:
    """Write :func:`describe_origin` to ``origin.json`` in a folder; return its path."""
    path = Path(folder, ORIGIN_FILE)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(describe_origin(), indent=2) + '\n')
    return path


def find_commit() -> str:
    """Return ``RANDSAC_COMMIT`` or the commit of this clone, with ``+changes`` if tracked files differ."""
    if 'RANDSAC_COMMIT' in os.environ:
        return os.environ['RANDSAC_COMMIT']
    if not (_ROOT / '.git').exists():  # an installed package: git would name a commit of another project
        return 'unknown'
    git = ['git', '-C', str(_ROOT)]
    try:
        name = subprocess.run([*git, 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, check=True)
        status = [*git, 'status', '--porcelain', '--untracked-files=no']
        changes = subprocess.run(status, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
    return name.stdout.strip() + ('+changes' if changes.stdout.strip() else '')


def processor_name() -> str:
    """Return the processor's name, as ``'AMD EPYC 7763 64-Core Processor'``."""
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.split(':', 1)[1].strip()
    return platform.processor() or platform.machine()
