"""Checkpoints on a disk: whole or absent, with space for them, and with checksums where torch.save adds none."""

import errno
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, is_main_process
from mmengine.optim import OptimWrapper
from torch import Tensor

from randsac_mm.engine.finite import all_finite
from randsac_mm.files import write_json

PARTIAL = '.partial'  # ending of what is being written
CHECKSUMS = 'checksums.json'  # in a checkpoint that is a folder: of every other file


class NotSavedError(OSError):
    """A checkpoint cannot be written, or should not be."""


def training_tensors(runner: Any) -> Iterator[Tensor]:
    """Yield weights and the state of the optimisers; of a sharded run the shards of this process."""
    tensors, wrapper = [*runner.model.parameters(), *runner.model.buffers()], runner.optim_wrapper
    for part in [wrapper] if isinstance(wrapper, OptimWrapper) else dict(wrapper.items()).values():
        states = getattr(part.optimizer, 'state', {}).values()
        tensors += [value for state in states for value in state.values() if isinstance(value, Tensor)]
    yield from (getattr(tensor, '_local_tensor', tensor) for tensor in tensors)


def checkpoint_size(runner: Any) -> int:
    """Estimate the bytes of a checkpoint."""
    return sum(tensor.numel() * tensor.element_size() for tensor in training_tensors(runner))


def check_space(folder: Path, needed: int, advice: str = '') -> None:
    """Raise an OSError if a folder cannot be written to or its disk has less space than ``needed`` bytes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f'{folder} cannot be written to ({error.strerror}): use another one') from error
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OSError(
            f'{os.strerror(errno.ENOSPC)} in {folder}: {needed:,} bytes are needed, {free:,} are free{advice}'
        )


def write_whole(runner: Any, path: Path | str, save: Callable[[str], None], meta: Mapping[str, Any]) -> None:
    """Save a checkpoint, a file or a folder, under a temporary name and rename it when all ranks have written.

    ``save`` writes to a name in the folder of ``path``; a plain name, of another storage than a disk, is saved at once.

    Raises:
        NotSavedError: On all ranks, if model or optimiser are not finite or one rank cannot write; nothing remains.
    """
    if not all(all_gather_object(all_finite(training_tensors(runner)))):
        raise NotSavedError(f'{path} is not saved: weights or optimiser state are NaN or infinite')
    if isinstance(path, str):
        save(path)
        return
    unfinished, needed = path.with_name(path.name + PARTIAL), checkpoint_size(runner)

    def write() -> None:
        if is_main_process() and not hasattr(runner, 'strategy'):  # whose ranks write together
            check_space(path.parent, needed)
        save(unfinished.name)

    for step in (write, lambda: is_main_process() and _publish(unfinished, path, meta)):
        fault = None
        try:
            step()
        except (OSError, RuntimeError) as error:  # the latter is that of torch's own writer
            if not isinstance(error, OSError) and 'PytorchStreamWriter' not in str(error):
                raise
            fault = str(error)
        if faults := [*filter(None, all_gather_object(fault))]:
            if is_main_process():
                shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink(missing_ok=True)
            text = f'{needed:,} bytes are needed, {shutil.disk_usage(path.parent).free:,} are free'
            raise NotSavedError(f'{path} cannot be written ({faults[0]}); {text}')


def _publish(unfinished: Path, path: Path, meta: Mapping[str, Any]) -> None:
    if unfinished.is_file():
        with unfinished.open('rb+') as file:
            os.fsync(file.fileno())  # the contents reach the disk before the name does
    else:
        write_checksums(unfinished, {'time': time.strftime('%Y%m%d_%H%M%S'), **meta})
    if path.is_dir() and not path.is_symlink():  # a folder cannot be renamed over another one
        shutil.rmtree(path)
    os.replace(unfinished, path)


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
