"""RandSAC (arXiv 2203.12054): self-supervised pre-training of Vision Transformers for OpenMMLab.

Importing this package registers its types, so ``custom_imports = dict(imports=['randsac_mm'])`` in a config is all that
another OpenMMLab project needs. Neither mmseg, mmdet nor mmcv's compiled ops are imported.
"""

from .version import __version__

try:
    import mmengine  # noqa: F401
    import mmpretrain  # noqa: F401
except ImportError as error:
    raise ImportError(
        f'randsac_mm needs mmengine, mmcv and mmpretrain, and one of them is missing or broken ({error}). Install one '
        'family, not both: "pip install -r requirements/mminstall.txt" for the maintained OneDL packages, or '
        '"pip install -r requirements/stock.txt" for the stock OpenMMLab releases'
    ) from error

from . import datasets, engine, evaluation, models, transfer  # noqa: F401

__all__ = ['__version__']
