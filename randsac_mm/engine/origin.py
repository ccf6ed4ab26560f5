"""Origin of a run: command, commit, hardware, versions, date. Written beside its log."""

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine.dist import get_world_size

from randsac_mm.engine.resources import cores_per_process
from randsac_mm.files import write_json
from randsac_mm.locations import command_line
from randsac_mm.version import __version__

ORIGIN_FILE = 'origin.json'
_ROOT = Path(__file__).resolve().parents[2]


def describe_origin() -> dict[str, Any]:
    """Return command, folder, commit, time, hardware and versions of this process in plain values."""
    return {
        'command': command_line(),
        'folder': str(Path.cwd()),
        'commit': find_commit(),
        'started': datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M:%S UTC'),
        'hardware': processor_name(),
        'gpus': [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        'processes': get_world_size(),
        'cores': cores_per_process(),  # of each process
        'python': platform.python_version(),
        'torch': torch.__version__,
        'mmengine': mmengine.__version__,
        'randsac_mm': __version__,
    }


def write_origin(folder: str | Path) -> Path:
    """Write :func:`describe_origin` to ``origin.json`` in a folder; return its path."""
    path = Path(folder, ORIGIN_FILE)
    write_json(path, describe_origin())
    return path


def find_commit() -> str:
    """Return ``RANDSAC_COMMIT`` or the commit of this clone, with ``+changes`` if tracked files differ."""
    if 'RANDSAC_COMMIT' in os.environ:
        return os.environ['RANDSAC_COMMIT']
    if not (_ROOT / '.git').exists():  # an installed package: git would name a commit of another project
        return 'unknown'
    git = ['git', '-C', str(_ROOT), 'describe', '--always', '--exclude=*', '--dirty=+changes']
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'


def processor_name() -> str:
    """Return the processor's name, as ``'AMD EPYC 7763 64-Core Processor'``."""
    file = Path('/proc/cpuinfo')
    found = re.search(r'model name\s*: (.*)', file.read_text()) if file.exists() else None
    return found[1] if found else platform.processor() or platform.machine()
