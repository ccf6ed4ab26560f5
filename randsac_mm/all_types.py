"""Import everything that registers types, after the image readers' limits and before ``randsac_mm::`` in configs."""

import os
import warnings
from typing import Any

from .locations import config_path

# For the libraries' own readers, if cv2 is not imported yet: the limits of datasets/image_limits.py.
for _name, _limit in {'PIXELS': 178_956_970, 'WIDTH': 65_535, 'HEIGHT': 65_535}.items():
    os.environ.setdefault(f'OPENCV_IO_MAX_IMAGE_{_name}', str(_limit))

# mmcv without compiled ops warns of every one that it lacks, and pre-training needs none.
warnings.filterwarnings('ignore', 'Fail to import', UserWarning, 'mmcv')

try:
    import mmengine.logging
    import mmpretrain  # noqa: F401
except ImportError as error:
    raise ImportError(
        f'randsac_mm needs mmengine, mmcv and mmpretrain, and one of them is missing or broken ({error}). Install one '
        'family, not both: "pip install onedl-mmengine onedl-mmcv onedl-mmpretrain" (versions: '
        'requirements/mminstall.txt), or "pip install mmengine mmcv-lite mmpretrain" (requirements/stock.txt)'
    ) from error

_print_log = mmengine.logging.print_log


def _print_log_by_level(msg: Any, logger: Any = None, level: int = 20) -> None:
    if logger is not None or level >= 20:  # logging.INFO
        _print_log(msg, logger, level)


# Without a logger mmengine's prints every level, and OneDL's libraries print a line of DEBUG when they are imported.
mmengine.logging.print_log = _print_log_by_level

from mmengine.config import Config  # noqa: E402
from mmengine.config.utils import MODULE2PACKAGE  # noqa: E402

from . import datasets, engine, evaluation, models, transfer  # noqa: E402, F401

MODULE2PACKAGE['randsac_mm'] = 'randsac_mm'  # for mmengine.hub.get_config and its messages
_get_cfg_path = getattr(Config, '_get_cfg_path', None)


def _find_config(path: str, file: str) -> tuple[str, str | None]:
    """Find the config that ``_base_`` names, ours also in a clone.

    mmengine would add ``_scope_='randsac_mm'`` to all parts of ours, and in that scope no type of mmpretrain, mmseg or
    mmdet is found. Without a scope the config's own ``default_scope`` counts, as in a copy of the file.
    """
    if path.startswith('randsac_mm::'):
        return config_path(path.removeprefix('randsac_mm::')), None
    return _get_cfg_path(path, file)


if _get_cfg_path is not None:
    Config._get_cfg_path = staticmethod(_find_config)
