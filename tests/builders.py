"""Tiny models for the tests. Sizes are prime where they can be, so that no two axes can be swapped unnoticed."""

import copy

import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

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
    arch: dict = ENCODER,
    patch: int = PATCH,
    channels: int = CHANNELS,
    **backbone: object,
) -> dict:
    """Return the config of a tiny model; ``neck=None`` stands for the two-stream baseline."""
    sizes = dict(img_size=(grid[0] * patch, grid[1] * patch), patch_size=patch, in_channels=channels)
    cfg = dict(
        type='TwoStreamRandSAC' if neck is None else 'RandSAC',
        backbone=dict(type='RandSACViT', arch=arch, **sizes, **backbone),
        head=dict(type='RandSACHead', norm_pix=norm_pix),
        data_preprocessor=dict(
            type='RandSACDataPreprocessor',
            serialization=dict(type=order, partition=partition or PARTITIONS['square-flat']),
        ),
    )
    if neck is not None:
        cfg['neck'] = {'type': 'RandSACDecoder', **DECODER, **neck}
    return copy.deepcopy(cfg)


def perturb(model: nn.Module) -> nn.Module:
    """Change all parameters but positions, norms and biases too, so that no two layers are equal."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith('pos_embed'):
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def build(cfg: dict) -> nn.Module:
    """Build a model with perturbed parameters."""
    return perturb(MODELS.build(cfg))


def images(grid: tuple[int, int] = GRID, batch_size: int = BATCH, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw normalised images (B, C, H, W)."""
    return torch.randn(batch_size, CHANNELS, grid[0] * PATCH, grid[1] * PATCH, dtype=dtype)


class Operations(TorchDispatchMode):
    """Record the names of all operators that run, such as ``'aten::mm'``."""

    def __init__(self) -> None:
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))

    def waits(self) -> set[str]:
        """Return which of the operators need their result on the host, which waits for a GPU."""
        names = ('_local_scalar_dense', 'nonzero', 'equal', 'is_nonzero', 'masked_select', '_unique2')
        return {f'aten::{name}' for name in names}.intersection(self.names)
