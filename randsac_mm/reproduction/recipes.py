"""Which config, changed how, is which row of the paper's tables."""

import copy
from pathlib import Path
from typing import Any

from mmengine.config import Config

BASELINES = ('untrained', 'raw-pixels')  # nothing is trained
_TABLE_10 = 'randsac/vit-t_skip_cifar10.py'
_PATCH = dict(type='PatchPartition')


def _ablation(partition: dict[str, Any], order: str = 'Random', **model: Any) -> tuple[str, dict[str, Any]]:
    """Change the order of segments, and other parts of the model, of the config of Tables 1 to 6 and 9."""
    serialization = dict(_delete_=True, type=f'{order}Serialization', partition=partition)
    return 'randsac/vit-t_cifar10.py', dict(data_preprocessor=dict(serialization=serialization), **model)


def _square(*hierarchy: int) -> dict[str, Any]:
    return dict(type='SquarePartition', hierarchy=hierarchy)


def _blob(*hierarchy: int) -> dict[str, Any]:
    return dict(type='BlobPartition', hierarchy=hierarchy)


# Config below configs/, and what is changed in its model.
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    'patch-raster': _ablation(_PATCH, 'Raster'),
    'patch-random': _ablation(_PATCH),
    'pixel-raster': _ablation(_PATCH, 'Raster', backbone=dict(patch_size=1)),
    **{f'patch-random-p{side}': _ablation(_PATCH, backbone=dict(patch_size=side)) for side in (1, 2, 8, 16)},
    'square-4': _ablation(_square(4)),
    'square-16': _ablation(_square(16)),
    'square-16-4': _ablation(_square(16, 4)),
    **{f'blob-{k}': _ablation(_blob(k)) for k in (3, 4, 5, 7, 9, 11, 16)},
    'blob-7-3': _ablation(_blob(7, 3)),
    'blob-16-4': _ablation(_blob(16, 4)),
    **{f'shuffled-blob-{k}': _ablation(dict(type='ShuffledPartition', partition=_blob(k))) for k in (3, 5, 7, 9, 11)},
    'patch-raster-norm-pix': _ablation(_PATCH, 'Raster', head=dict(norm_pix=True)),
    'patch-random-norm-pix': _ablation(_PATCH, head=dict(norm_pix=True)),
    'square-16-norm-pix': _ablation(_square(16), head=dict(norm_pix=True)),
    'blob-7-norm-pix': _ablation(_blob(7), head=dict(norm_pix=True)),
    'two-stream': ('randsac/vit-t_two-stream_cifar10.py', {}),
    'transformer': (_TABLE_10, dict(neck=dict(skip=False))),
    'transformer-skip': (_TABLE_10, {}),
    'transformer-skip-no-norm': (_TABLE_10, dict(neck=dict(memory_norm='none'))),
    'mae-norm-pix': ('peers/mae_vit-t_cifar10.py', {}),
    'mae-norm-pix-same-compute': ('peers/mae_vit-t_cifar10.py', {}),
    'supervised': ('peers/supervised_vit-t_cifar10.py', {}),
    **{name: (_TABLE_10, {}) for name in BASELINES},
    **{
        f'{data}-{name}': (f'{config}_{data}.py', {})
        for data in ('cifar10', 'cifar100')
        for name, config in (
            ('supervised', 'peers/supervised_vit-s'),
            ('mae', 'peers/mae_vit-s'),
            ('mae-same-compute', 'peers/mae_vit-s'),
            ('square', 'randsac/vit-s'),
            ('blob', 'randsac/vit-s_blob'),
        )
    },
}
# Runs that get as many epochs as it takes to compute as much as another run.
SAME_COMPUTE = {
    'mae-norm-pix-same-compute': 'transformer-skip',
    'cifar10-mae-same-compute': 'cifar10-square',
    'cifar100-mae-same-compute': 'cifar100-square',
}


def load_recipe(name: str, configs: Path) -> Config:
    """Read the config of a recipe, a key of :data:`RECIPES`, below the folder ``configs/``, and change it."""
    config, changes = RECIPES[name]
    cfg = Config.fromfile(configs / config)
    cfg.merge_from_dict(copy.deepcopy(dict(model=changes)))  # which takes `_delete_` out of what it is given
    return cfg


def find_datasets(cfg: Config) -> list[Any]:
    """Return the configs of all data sets in a config, the innermost ones; that of training comes first."""
    found = []
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(name) is not None:
            dataset = cfg[name].dataset
            found.append(dataset.get('dataset', dataset))
    return found
