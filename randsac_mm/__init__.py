"""RandSAC (arXiv 2203.12054): self-supervised pre-training of Vision Transformers for OpenMMLab.

Importing this package registers its types, so ``custom_imports = dict(imports=['randsac_mm'])`` in a config is all that
another OpenMMLab project needs. Neither mmseg, mmdet nor mmcv's compiled ops are imported.
"""

import os
from typing import Any

from .locations import config_path
from .version import __version__

# For the libraries' own readers, if cv2 is not imported yet: the limits of datasets/image_limits.py.
for _name, _limit in {'PIXELS': 178_956_970, 'WIDTH': 65_535, 'HEIGHT': 65_535}.items():
    os.environ.setdefault(f'OPENCV_IO_MAX_IMAGE_{_name}', str(_limit))

try:
    import mmengine.logging
    import mmpretrain  # noqa: F401
except ImportError as error:
    raise ImportError(
        f'randsac_mm needs mmengine, mmcv and mmpretrain, and one of them is missing or broken ({error}). Install one '
        'family, not both: "pip install -r requirements/mminstall.txt" for the maintained OneDL packages, or '
        '"pip install -r requirements/stock.txt" for the stock OpenMMLab releases'
    ) from error

_print_log = mmengine.logging.print_log


def _print_log_by_level(msg: Any, logger: Any = None, level: int = 20) -> None:
    if logger is not None or level >= 20:  # logging.INFO
        _print_log(msg, logger, level)


# Without a logger mmengine's prints every level, and OneDL's libraries print a line of DEBUG when they are imported.
mmengine.logging.print_log = _print_log_by_level

from . import datasets, engine, evaluation, models, transfer  # noqa: E402, F401

__all__ = ['__version__', 'config_path', 'load']


def __getattr__(name: str) -> Any:
    if name != 'load':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from .inference import load  # imported only when it is used

    return load
