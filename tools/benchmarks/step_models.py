"""The models of the benchmarks: those of our configs, and mmpretrain's MAE with the same encoders."""

from typing import Any, NamedTuple

from measure import CONFIGS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import nn

from randsac_mm.models import RandSAC


class Entry(NamedTuple):
    """A model of the benchmark."""

    config: str  # below configs/randsac
    batch: tuple[int, int]  # images in a step on a CPU, and on a CUDA device
    mae: tuple[int, int, int]  # width, layers and heads of the decoder of the MAE with this encoder
    changes: dict[str, Any]  # of the config's model


def _squares(*hierarchy: int) -> dict[str, Any]:
    partition = dict(_delete_=True, type='SquarePartition', hierarchy=hierarchy)
    return {'data_preprocessor.serialization.partition': partition}


_TINY = {
    **_squares(16, 4),
    'backbone.arch': dict(_delete_=True, embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=48),
    'neck': dict(embed_dims=24, num_layers=2, num_heads=2),
}
# MAE publishes one decoder, for ViT-B and larger; smaller encoders get it at two thirds of their width, as 512 of 768.
KNOWN = {
    'vit-b_k9': Entry('vit-b_k9_in1k.py', (4, 256), (512, 8, 16), {}),
    'vit-b': Entry('vit-b_in1k.py', (4, 256), (512, 8, 16), {}),
    'vit-s': Entry('vit-s_in100.py', (8, 512), (256, 8, 8), _squares(49)),  # 14 x 14 tokens do not make 16 squares
    'vit-s_blob': Entry('vit-s_in100.py', (8, 512), (256, 8, 8), {}),
    'vit-t': Entry('vit-t_skip_cifar10.py', (64, 512), (128, 8, 4), _squares(16, 4)),
    'tiny': Entry('vit-t_skip_cifar10.py', (2, 4), (16, 2, 2), _TINY),
}

# A step sees 9,216 tokens (on a GPU eight times as many) in images of ever more tokens: only attention's part grows.
for _side in (8, 12, 16, 24, 32):
    _images = 9216 // _side**2
    _changes = {
        **_squares(16),
        'backbone.img_size': 4 * _side,
        'backbone.arch': dict(_delete_=True, embed_dims=384, num_layers=2, num_heads=6, feedforward_channels=1536),
        'neck': dict(num_layers=1),
    }
    KNOWN[f'tokens-{_side**2}'] = Entry('vit-s_cifar10.py', (_images, 8 * _images), (256, 8, 8), _changes)


def build_model(name: str, **changes: Any) -> RandSAC:
    """Build a model of :data:`KNOWN` in training mode, with changes of its config, as ``attention='plain'``."""
    cfg = _config(name)
    cfg.merge_from_dict(changes)
    init_default_scope('mmpretrain')
    return MODELS.build(cfg)


def build_mae(name: str) -> nn.Module:
    """Build mmpretrain's MAE with the encoder of a model, in training mode; with patches of 16 px for 224 px images."""
    encoder, (dims, depth, heads) = _config(name).backbone, KNOWN[name].mae
    patch, size = encoder.patch_size, 224 if encoder.patch_size == 16 else encoder.img_size
    cfg = Config.fromfile(CONFIGS / 'peers' / 'mae_vit-t_cifar10.py').model
    cfg.backbone.update(arch=encoder.arch, img_size=size, patch_size=patch)
    cfg.neck.update(
        num_patches=(size // patch) ** 2,
        patch_size=patch,
        embed_dim=build_model(name).backbone.embed_dims,
        decoder_embed_dim=dims,
        decoder_depth=depth,
        decoder_num_heads=heads,
    )
    cfg.head.patch_size = patch
    return MODELS.build(cfg)


def _config(name: str) -> Config:
    entry = KNOWN[name]
    cfg = Config(Config.fromfile(CONFIGS / 'randsac' / entry.config).model.to_dict())
    cfg.merge_from_dict(entry.changes)
    return cfg
