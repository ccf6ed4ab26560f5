"""Which config, changed how, is which row of the paper's tables."""

from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

_ABLATION, _TABLE_10 = 'randsac/vit-t_cifar10.py', 'randsac/vit-t_skip_cifar10.py'
BASELINES = ('untrained', 'raw-pixels')  # nothing is trained


class Recipe(NamedTuple):
    """A way to pre-train.

    Attributes:
        config: The config, below ``configs/``.
        serialization: Config of another serialization; None: the config's own.
        patch_size: Another side P of a patch, in pixels.
        skip: Whether there are skip connections; None: as in the config.
        norm_pix: Whether the target is normalised by each patch's mean and deviation; None: as in the config.
    """

    config: str
    serialization: dict[str, Any] | None = None
    patch_size: int | None = None
    skip: bool | None = None
    norm_pix: bool | None = None


def _random(partition: dict[str, Any]) -> dict[str, Any]:
    return dict(type='RandomSerialization', partition=partition)


def _square(*hierarchy: int) -> dict[str, Any]:
    return _random(dict(type='SquarePartition', hierarchy=hierarchy))


def _blob(*hierarchy: int) -> dict[str, Any]:
    return _random(dict(type='BlobPartition', hierarchy=hierarchy))


def _shuffled(count: int) -> dict[str, Any]:
    return _random(dict(type='ShuffledPartition', partition=dict(type='BlobPartition', hierarchy=count)))


_RASTER = dict(type='RasterSerialization', partition=dict(type='PatchPartition'))
_PATCHES = _random(dict(type='PatchPartition'))

RECIPES: dict[str, Recipe] = {
    'pixel-raster': Recipe(_ABLATION, _RASTER, patch_size=1),
    'patch-raster': Recipe(_ABLATION, _RASTER),
    'patch-random': Recipe(_ABLATION, _PATCHES),
    **{f'patch-random-p{p}': Recipe(_ABLATION, _PATCHES, patch_size=p) for p in (1, 2, 8, 16)},
    'square-4': Recipe(_ABLATION, _square(4)),
    'square-16': Recipe(_ABLATION, _square(16)),
    'square-16-4': Recipe(_ABLATION, _square(16, 4)),
    **{f'blob-{k}': Recipe(_ABLATION, _blob(k)) for k in (3, 4, 5, 7, 9, 11, 16)},
    'blob-7-3': Recipe(_ABLATION, _blob(7, 3)),
    'blob-16-4': Recipe(_ABLATION, _blob(16, 4)),
    **{f'shuffled-blob-{k}': Recipe(_ABLATION, _shuffled(k)) for k in (3, 5, 7, 9, 11)},
    **{
        f'{name}-norm-pix': Recipe(_ABLATION, serialization, norm_pix=True)
        for name, serialization in (
            ('patch-raster', _RASTER),
            ('patch-random', _PATCHES),
            ('square-16', _square(16)),
            ('blob-7', _blob(7)),
        )
    },
    'two-stream': Recipe('randsac/vit-t_two-stream_cifar10.py'),
    'transformer': Recipe(_TABLE_10, skip=False),
    'transformer-skip': Recipe(_TABLE_10),
    'mae-norm-pix': Recipe('peers/mae_vit-t_cifar10.py'),
    'supervised': Recipe('peers/supervised_vit-t_cifar10.py'),
    'untrained': Recipe(_TABLE_10),
    'raw-pixels': Recipe(_TABLE_10),
    **{
        f'{data}-{name}': Recipe(f'{folder}_{data}.py')
        for data in ('cifar10', 'cifar100')
        for name, folder in (
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
    recipe = RECIPES[name]
    cfg = Config.fromfile(configs / recipe.config)
    model = cfg.model
    if recipe.serialization is not None:
        model.data_preprocessor.serialization = recipe.serialization
    if recipe.patch_size is not None:
        model.backbone.patch_size = model.head.patch_size = recipe.patch_size
    if recipe.skip is not None:
        model.neck.skip = recipe.skip
    if recipe.norm_pix is not None:
        model.head.norm_pix = recipe.norm_pix
    return cfg


def set_size(cfg: Config, embed_dims: int, num_layers: int, num_heads: int, decoder_layers: int) -> None:
    """Give encoder and decoder of a config another size, whatever algorithm it trains.

    The two-stream baseline, which has no decoder, gets the layers of both, as at the paper's size.

    Args:
        cfg: The config; changed in place.
        embed_dims: Width D of encoder and decoder.
        num_layers: Layers of the encoder.
        num_heads: Attention heads of both.
        decoder_layers: Layers of the decoder.
    """
    model = cfg.model
    if model.type == 'TwoStreamRandSAC':
        num_layers += decoder_layers
    model.backbone.arch = dict(
        embed_dims=embed_dims, num_layers=num_layers, num_heads=num_heads, feedforward_channels=4 * embed_dims
    )
    if model.type == 'MAE':
        model.neck.update(
            embed_dim=embed_dims,
            decoder_embed_dim=embed_dims,
            decoder_depth=decoder_layers,
            decoder_num_heads=num_heads,
        )
    elif model.type == 'ImageClassifier':
        model.head.in_channels = embed_dims
    else:
        model.head.embed_dims = embed_dims
        if model.get('neck'):
            model.neck.update(
                num_layers=decoder_layers,
                embed_dims=embed_dims,
                num_heads=num_heads,
                encoder_dims=embed_dims,
                encoder_layers=num_layers,
            )


def set_length(cfg: Config, epochs: int, iters_per_epoch: int, warmup_iters: int) -> None:
    """Let a run and its schedule, linear warm-up and cosine decay, end after some epochs.

    Args:
        cfg: The config; changed in place.
        epochs: Number of epochs.
        iters_per_epoch: Steps in each.
        warmup_iters: Steps of the warm-up. With fewer than two there is none: mmengine's LinearLR would keep its first
            value for ever.
    """
    total = epochs * iters_per_epoch
    begin = warmup_iters if warmup_iters >= 2 else 0
    warmup = dict(type='LinearLR', start_factor=1e-4, by_epoch=False, begin=0, end=begin)
    decay = dict(type='CosineAnnealingLR', eta_min=0.0, T_max=total - begin, by_epoch=False, begin=begin, end=total)
    cfg.max_epochs = cfg.train_cfg.max_epochs = epochs
    cfg.param_scheduler = [warmup, decay] if begin else [decay]


def data_sets(cfg: Config) -> list[Any]:
    """Give the configs of all data sets in a config, the innermost ones."""
    found = []
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        dataset = (cfg.get(name) or {}).get('dataset')
        while dataset is not None and dataset.get('dataset') is not None:
            dataset = dataset.dataset
        if dataset is not None:
            found.append(dataset)
    return found
