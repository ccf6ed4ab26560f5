"""Which config, changed how, is which row of the paper's tables."""

from pathlib import Path
from typing import Any

from mmengine.config import Config

BASELINES = ('untrained', 'raw-pixels')  # nothing is trained
_TABLE_10 = 'randsac/vit-t_skip_cifar10.py'


def _ablation(order: str, partition: dict[str, Any], **model: Any) -> tuple[str, dict[str, Any]]:
    """Change the order of segments, and other parts of the model, of the config of Tables 1 to 6 and 9."""
    serialization = dict(_delete_=True, type=f'{order}Serialization', partition=partition)
    return 'randsac/vit-t_cifar10.py', dict(data_preprocessor=dict(serialization=serialization), **model)


def _square(*hierarchy: int) -> dict[str, Any]:
    return dict(type='SquarePartition', hierarchy=hierarchy)


def _blob(*hierarchy: int) -> dict[str, Any]:
    return dict(type='BlobPartition', hierarchy=hierarchy)


def _shuffled(count: int) -> dict[str, Any]:
    return dict(type='ShuffledPartition', partition=dict(type='BlobPartition', hierarchy=count))


def _patch_size(side: int) -> dict[str, Any]:
    return dict(backbone=dict(patch_size=side), head=dict(patch_size=side))


_PATCH = dict(type='PatchPartition')
_NORM_PIX = dict(head=dict(norm_pix=True))

# Config below configs/, and what is changed in its model.
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    'pixel-raster': _ablation('Raster', _PATCH, **_patch_size(1)),
    'patch-raster': _ablation('Raster', _PATCH),
    'patch-random': _ablation('Random', _PATCH),
    **{f'patch-random-p{side}': _ablation('Random', _PATCH, **_patch_size(side)) for side in (1, 2, 8, 16)},
    'square-4': _ablation('Random', _square(4)),
    'square-16': _ablation('Random', _square(16)),
    'square-16-4': _ablation('Random', _square(16, 4)),
    **{f'blob-{k}': _ablation('Random', _blob(k)) for k in (3, 4, 5, 7, 9, 11, 16)},
    'blob-7-3': _ablation('Random', _blob(7, 3)),
    'blob-16-4': _ablation('Random', _blob(16, 4)),
    **{f'shuffled-blob-{k}': _ablation('Random', _shuffled(k)) for k in (3, 5, 7, 9, 11)},
    'patch-raster-norm-pix': _ablation('Raster', _PATCH, **_NORM_PIX),
    'patch-random-norm-pix': _ablation('Random', _PATCH, **_NORM_PIX),
    'square-16-norm-pix': _ablation('Random', _square(16), **_NORM_PIX),
    'blob-7-norm-pix': _ablation('Random', _blob(7), **_NORM_PIX),
    'two-stream': ('randsac/vit-t_two-stream_cifar10.py', {}),
    'transformer': (_TABLE_10, dict(neck=dict(skip=False))),
    'transformer-skip': (_TABLE_10, {}),
    'mae-norm-pix': ('peers/mae_vit-t_cifar10.py', {}),
    'supervised': ('peers/supervised_vit-t_cifar10.py', {}),
    **{name: (_TABLE_10, {}) for name in BASELINES},
    **{
        f'{data}-{name}': (f'{config}_{data}.py', {})
        for data in ('cifar10', 'cifar100')
        for name, config in (
            ('supervised', 'peers/supervised_vit-s'),
            ('mae', 'peers/mae_vit-s'),
            ('square', 'randsac/vit-s'),
            ('blob', 'randsac/vit-s_blob'),
        )
    },
}


def load_recipe(name: str, configs: Path) -> Config:
    """Read the config of a recipe and change it.

    Args:
        name: Key of :data:`RECIPES`.
        configs: The folder ``configs/``.

    Returns:
        The config of a pre-training run at the paper's size.

    Raises:
        ValueError: If there is no such recipe.
    """
    if name not in RECIPES:
        raise ValueError(f'there is no recipe {name!r}: choose from {", ".join(RECIPES)}')
    config, changes = RECIPES[name]
    cfg = Config.fromfile(configs / config)
    cfg.merge_from_dict(dict(model=changes))
    return cfg


def find_datasets(cfg: Config) -> list[Any]:
    """Return the configs of all data sets in a config, the innermost ones; that of training comes first."""
    found = []
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        dataset = (cfg.get(name) or {}).get('dataset')
        while dataset is not None and dataset.get('dataset') is not None:
            dataset = dataset.dataset
        if dataset is not None:
            found.append(dataset)
    return found
