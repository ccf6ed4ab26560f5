"""The work directory of a run: the checkpoint in it to continue from, and one run at a time."""

import datetime
import errno
import fcntl
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config

from randsac_mm.engine.disk import CHECKSUMS, check_folder, check_space
from randsac_mm.engine.distributed import connect, on_first_rank
from randsac_mm.transfer.reading import read_checkpoint

_NAME = re.compile(r'(?:epoch|iter)_(\d+)\.pth|interrupted\.pth')
_PARTS = ('meta', 'state_dict', 'optimizer', 'message_hub')  # of what a run continues from


def use_resume(cfg: Config, resume: str, passed: list[str] | None = None) -> bool:
    """Set ``resume`` and ``load_from`` of a config to continue a run (``--resume``); the first process decides.

    ``resume`` is ``'latest'``: the newest whole checkpoint in ``work_dir``; ``'auto'``: the same, or a new run if there
    never was one; a work directory; or a checkpoint. ``passed`` receives why others were passed over.

    Returns:
        Whether a checkpoint was found; False only for ``'auto'``.

    Raises:
        FileNotFoundError: If there is no checkpoint to continue from.
        ValueError: If none is whole.
    """
    if cfg.get('strategy') is None:
        connect(cfg)
    path, reasons = Path(cfg.work_dir if resume in ('latest', 'auto') else resume), []

    def find() -> tuple[str | None, list[str]]:
        if path.is_file() or (path.suffix == '.pth' and path.exists()):
            read_whole(path)
            return str(path), []
        found = find_whole(path, reasons)
        return found and str(found), reasons

    found, reasons = on_first_rank(find)
    if found is None and reasons:
        raise ValueError(f'--resume: no checkpoint in {path.resolve()} is whole: {"; ".join(reasons)}')
    if found is None and resume != 'auto':
        raise FileNotFoundError(f'--resume: there is no checkpoint in {path.resolve()}; --resume auto starts a new run')
    if passed is not None:
        passed += reasons
    cfg.resume = found is not None
    if found is not None:
        cfg.load_from = found
    return cfg.resume


def find_checkpoint(work_dir: str | Path) -> Path | None:
    """Return the checkpoint that ``last_checkpoint`` names, else that of the highest number, without reading it."""
    matches = {path: _NAME.fullmatch(path.name) for path in Path(work_dir).glob('*.pth')}
    numbers = {path: int(match[1] or 0) for path, match in matches.items() if match}
    return _read_pointer(Path(work_dir), []) or max(numbers, key=lambda path: numbers[path], default=None)


def find_run(path: str | Path) -> tuple[Path, Path]:
    """Return the complete config and the newest whole checkpoint of a run.

    Args:
        path: Its work directory, or one of the checkpoints in it.

    Raises:
        FileNotFoundError: If there is no such run, or no config or checkpoint in it.
        ValueError: If no checkpoint is whole.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'there is no run or checkpoint {path}')
    work_dir, passed = (path if path.is_dir() else path.parent), []
    configs = [*sorted(work_dir.glob('[0-9]*_[0-9]*/vis_data/config.py'))[::-1], *sorted(work_dir.glob('*.py'))]
    if not configs:
        raise FileNotFoundError(f'{work_dir} contains no config of a run')
    checkpoint = path if path.is_file() else find_whole(work_dir, passed)
    if checkpoint is None:
        if passed:
            raise ValueError(f'no checkpoint in {work_dir} is whole: {"; ".join(passed)}')
        raise FileNotFoundError(f'{work_dir} contains no checkpoint yet')
    return configs[0], checkpoint


def find_whole(work_dir: str | Path, passed: list[str] | None = None) -> Path | None:
    """Return the newest whole checkpoint: that of ``last_checkpoint``, else the one that was written last.

    Every byte is read, nothing is changed. ``passed`` receives why others were passed over.
    """
    passed = [] if passed is None else passed
    pointed = _read_pointer(Path(work_dir), passed)
    folder = Path(work_dir) if pointed is None else pointed.parent
    others = [path for path in folder.glob('*.pth') if _NAME.fullmatch(path.name) and path != pointed]
    for paths in ([pointed] if pointed else [], others):
        metas = {}
        for path in paths:
            try:
                metas[path] = read_whole(path)
            except (OSError, ValueError) as error:
                passed.append(' '.join(str(error).split()))
        if metas:  # by date first: a folder may contain later steps of an earlier run
            return max(metas, key=lambda path: (str(metas[path].get('time', '')), metas[path]['iter']))
    return None


def read_whole(path: Path) -> Mapping[str, Any]:
    """Read every byte of a checkpoint, a file or a folder, and return its ``meta``.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, or no run can continue from it.
    """
    if path.is_dir():
        # FSDP and DeepSpeed write folders; those of earlier versions have no checksums.
        is_old = not (path / CHECKSUMS).exists() and any(map(list, map(path.rglob, ('.metadata', '*.pt'))))
        return {'iter': 0} if is_old else check_folder(path)
    checkpoint = read_checkpoint(path)
    check_parts(checkpoint, path)
    return checkpoint['meta']


def check_parts(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Raise a ValueError if a checkpoint lacks what a run needs to continue."""
    lacks = [key for key in _PARTS if not isinstance(checkpoint.get(key), dict)]
    if lacks or not all(type(checkpoint['meta'].get(key)) is int for key in ('epoch', 'iter')):
        lacks = ', '.join(lacks or ['epoch and iter in meta'])
        raise ValueError(f'{path} has no {lacks}: no run can continue from it; use load_from to begin with its weights')


def _read_pointer(work_dir: Path, passed: list[str]) -> Path | None:
    """Return the checkpoint that ``last_checkpoint`` names, also in a moved folder."""
    pointer = work_dir / 'last_checkpoint'
    if not os.path.lexists(pointer):
        return None
    try:
        saved = Path(pointer.read_text().strip())
        # In this folder, or in one of its name, where the hook's option out_dir puts it.
        places = [work_dir / saved.name, *([saved] if saved.parent.name == work_dir.resolve().name else [])]
        if saved.suffix == '.pth' and (found := [path for path in places if os.path.lexists(path)]):
            return found[0]
        passed.append(f'{pointer} names no checkpoint of this folder: {str(saved)[:200]!r}')
    except (OSError, ValueError) as error:  # a folder, no text, not a path
        passed.append(f'{pointer} cannot be read ({error})')
    return None


@contextmanager
def claim_work_dir(work_dir: str | Path) -> Iterator[None]:
    """Lock a work directory, on the first process of a run, until the block or the process ends, however it ends.

    ``run.lock`` in it names host, process and time.

    Raises:
        OSError: If the folder cannot be written to.
        ValueError: If another run has locked it.
    """
    if int(os.environ.get('RANK') or os.environ.get('SLURM_PROCID') or 0):
        yield
        return
    check_space(Path(work_dir), 0)
    with Path(work_dir, 'run.lock').open('a+') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):  # else the file system has no locks
                file.seek(0)
                raise ValueError(
                    f'{work_dir}: another run is writing there, {file.read().strip() or "of unknown process"}; wait '
                    'for its end or use another folder'
                ) from error
        os.register_at_fork(after_in_child=file.close)  # workers must not keep the lock of a process that was killed
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()} since {datetime.datetime.now():%Y-%m-%d %H:%M:%S}')
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
