"""Space for checkpoints, and checksums of those that are folders."""

import errno
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.optim import OptimWrapper
from torch import Tensor

from randsac_mm.files import write_json

CHECKSUMS = 'checksums.json'  # in a checkpoint that is a folder: of every other file


def training_tensors(runner: Any, with_optimizer: bool = True) -> Iterator[Tensor]:
    """Yield weights and the state of the optimisers; of a sharded run the shards of this process."""
    tensors, wrapper = [*runner.model.parameters(), *runner.model.buffers()], runner.optim_wrapper
    for part in ([wrapper] if isinstance(wrapper, OptimWrapper) else dict(wrapper.items()).values()) * with_optimizer:
        states = getattr(part.optimizer, 'state', {}).values()
        tensors += [value for state in states for value in state.values() if isinstance(value, Tensor)]
    yield from (getattr(tensor, '_local_tensor', tensor) for tensor in tensors)


def checkpoint_size(runner: Any, with_optimizer: bool = True) -> int:
    """Estimate the bytes of a checkpoint."""
    return sum(tensor.numel() * tensor.element_size() for tensor in training_tensors(runner, with_optimizer))


def check_space(folder: Path, needed: int, advice: str = '') -> None:
    """Raise an OSError if a folder cannot be written to or its disk has less space than ``needed`` bytes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f'{folder} cannot be written to ({error.strerror}): use another --work-dir') from error
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OSError(
            f'{os.strerror(errno.ENOSPC)} in {folder}: {needed:,} bytes are needed, {free:,} are free{advice}'
        )


def write_checksums(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write size and CRC-32 of every file of a folder, and ``meta``, to ``checksums.json`` in it."""
    files = {str(path.relative_to(folder)): _checksum(path) for path in folder.rglob('*') if path.is_file()}
    write_json(folder / CHECKSUMS, {'meta': dict(meta), 'files': files})


def check_folder(folder: Path) -> dict[str, Any]:
    """Compare a folder with its ``checksums.json``, and return the ``meta`` in it; ValueError if they differ."""
    try:
        content = json.loads((folder / CHECKSUMS).read_text())
        damaged = [name for name, checksum in content['files'].items() if _checksum(folder / name) != checksum]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f'{folder} is no complete checkpoint ({error})') from error
    if damaged:
        raise ValueError(f'{folder} is damaged: wrong checksum of {", ".join(damaged)}')
    return content['meta']


def _checksum(path: Path) -> list[int]:
    crc = 0
    with path.open('rb') as file:
        while block := file.read(2**20):
            crc = zlib.crc32(block, crc)
    return [path.stat().st_size, crc]
