"""RandSAC (arXiv 2203.12054): self-supervised pre-training of Vision Transformers for OpenMMLab.

Importing this package registers its types, so ``custom_imports = dict(imports=['randsac_mm'])`` in a config is all that
another OpenMMLab project needs, and makes ``_base_ = 'randsac_mm::randsac/vit-s_folder.py'`` work in the configs that
are read after it. Neither mmseg, mmdet nor mmcv's compiled ops are imported.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

# Waiting threads that spin make a step many times slower beside another busy process; a bound costs nothing alone.
# OpenMP reads it when torch is loaded: so the tools import this package first of all (before-torch in pyproject.toml).
if not {'GOMP_SPINCOUNT', 'KMP_BLOCKTIME', 'OMP_WAIT_POLICY'} & os.environ.keys():
    os.environ['GOMP_SPINCOUNT'] = '1000'

from .locations import config_path, find_root
from .version import __version__

_is_tool = find_root() / 'tools' in Path(*sys.argv[:1]).resolve().parents
if _is_tool and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `run_tool`: Ctrl-C ends the imports without traceback

# The command imports them when a script is to run: see cli.py.
if Path(*sys.argv[:1]).name not in ('randsac-mm', 'randsac-mm.exe'):
    from . import all_types  # noqa: F401

__all__ = ['__version__', 'config_path', 'load']


def __getattr__(name: str) -> Any:
    if name != 'load':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from .inference import load  # imported only when it is used

    return load
