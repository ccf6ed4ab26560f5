"""Where this package's configs and tools are: in a clone beside the package, after ``pip install`` inside of it."""

import shlex
import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def find_root() -> Path:
    """Return the folder that contains ``configs/`` and ``tools/``."""
    installed = _PACKAGE / '.mim'  # OpenMMLab's place for them
    return installed if (installed / 'configs').is_dir() else _PACKAGE.parent


def config_path(name: str) -> str:
    """Return the path of one of this package's configs.

    For configs of other projects, read by whatever tool:
    ``_base_ = __import__('randsac_mm').config_path('randsac/vit-s_folder.py')``.

    Args:
        name: Its name below ``configs/``.

    Raises:
        FileNotFoundError: If there is no such config.
    """
    folder = find_root() / 'configs'
    if not (folder / name).is_file():
        raise FileNotFoundError(f'randsac_mm has no config {name}; they are in {folder}')
    return str(folder / name)


def command_name() -> str | None:
    """Return the command that this process runs, such as ``'randsac-mm train'``; None if it is a script."""
    return getattr(sys.modules['__main__'], 'COMMAND', None)  # set by cli.py


def command_line() -> str:
    """Return the command line of this process: ``randsac-mm train ...`` or ``python tools/train.py ...``."""
    name = command_name() or shlex.join([Path(sys.executable).name, sys.argv[0]])
    return ' '.join([name, *map(shlex.quote, sys.argv[1:])])
