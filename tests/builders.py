"""Tiny models for the tests. Sizes are prime where they can be, so that no two axes can be swapped unnoticed."""

import copy

import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn

import randsac_mm  # noqa: F401  registers the models

PATCH = 3
CHANNELS = 2
ENCODER = dict(embed_dims=12, num_layers=3, num_heads=3, feedforward_channels=17)
DECODER = dict(embed_dims=20, num_layers=2, num_heads=5, feedforward_channels=13)
BATCH = 3
GRID = (4, 6)  # 24 tokens; squares of 1 or 2 tokens

PARTITIONS = {
    'patch': dict(type='PatchPartition'),
    'square-flat': dict(type='SquarePartition', hierarchy=6),
    'square-hierarchical': dict(type='SquarePartition', hierarchy=(24, 6)),
    'blob-flat': dict(type='BlobPartition', hierarchy=7),
    'blob-hierarchical': dict(type='BlobPartition', hierarchy=(7, 3)),
    'shuffled-square': dict(type='ShuffledPartition', partition=dict(type='SquarePartition', hierarchy=(24, 6))),
    'shuffled-blob': dict(type='ShuffledPartition', partition=dict(type='BlobPartition', hierarchy=(7, 3))),
}
ARCHITECTURES = {
    'transformer': dict(skip=False),
    'skip': dict(skip=True, skip_init='normal'),
    'two-stream': None,
}


def config(
    partition: dict | None = None,
    neck: dict | None = ARCHITECTURES['skip'],
    grid: tuple[int, int] = GRID,
    norm_pix: bool = True,
    order: str = 'RandomSerialization',
    **backbone: object,
) -> dict:
    """Make the config of a tiny model; ``neck=None`` gives the two-stream baseline."""
    encoder = backbone.pop('arch', ENCODER)
    cfg = dict(
        type='TwoStreamRandSAC' if neck is None else 'RandSAC',
        backbone=dict(
            type='RandSACViT',
            arch=encoder,
            img_size=(grid[0] * PATCH, grid[1] * PATCH),
            patch_size=PATCH,
            in_channels=CHANNELS,
            **backbone,
        ),
        head=dict(
            type='RandSACHead',
            embed_dims=(encoder if neck is None else DECODER)['embed_dims'],
            patch_size=PATCH,
            in_channels=CHANNELS,
            norm_pix=norm_pix,
        ),
        data_preprocessor=dict(
            type='RandSACDataPreprocessor',
            serialization=dict(type=order, partition=partition or PARTITIONS['square-flat']),
        ),
    )
    if neck is not None:
        cfg['neck'] = dict(
            type='RandSACDecoder',
            encoder_dims=encoder['embed_dims'],
            encoder_layers=encoder['num_layers'],
            **DECODER,
        )
        cfg['neck'].update(neck)
    return copy.deepcopy(cfg)


def build(cfg: dict) -> nn.Module:
    """Build a model and give all its parameters, norms and biases too, values that no two layers share."""
    model = MODELS.build(cfg)
    for name, parameter in model.named_parameters():
        if not name.endswith('pos_embed'):
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def images(grid: tuple[int, int] = GRID, batch_size: int = BATCH, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw normalised images (B, C, H, W)."""
    return torch.randn(batch_size, CHANNELS, grid[0] * PATCH, grid[1] * PATCH, dtype=dtype)
