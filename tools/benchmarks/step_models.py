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
    changes: dict[str, Any]  # of the config's model


def _squares(*hierarchy: int) -> dict[str, Any]:
    partition = dict(_delete_=True, type='SquarePartition', hierarchy=hierarchy)
    return {'data_preprocessor.serialization.partition': partition}


_TINY = {
    **_squares(16, 4),
    'backbone.arch': dict(_delete_=True, embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=48),
    'neck': dict(embed_dims=24, num_layers=2, num_heads=2),
}
KNOWN = {
    'vit-b_k9': Entry('vit-b_k9_in1k.py', (4, 256), {}),
    'vit-b': Entry('vit-b_in1k.py', (4, 256), {}),
    'vit-s': Entry('vit-s_in100.py', (8, 512), _squares(49)),  # 14 x 14 tokens do not make 16 squares
    'vit-s_blob': Entry('vit-s_in100.py', (8, 512), {}),
    'vit-t': Entry('vit-t_skip_cifar10.py', (64, 512), _squares(16, 4)),
    'tiny': Entry('vit-t_skip_cifar10.py', (2, 4), _TINY),
}
for _k in ((3,), (7,), (11,), (11, 5)):
    _partition = dict(_delete_=True, type='BlobPartition', hierarchy=_k)
    _changes = {'data_preprocessor.serialization.partition': _partition}
    KNOWN['-'.join(map(str, ('vit-t_blob', *_k)))] = Entry('vit-t_skip_cifar10.py', (64, 512), _changes)
# A step sees 9,216 tokens (on a GPU eight times as many) in images of ever more tokens: only attention's part grows.
for _side in (8, 12, 16, 24, 32):
    _images = 9216 // _side**2
    _changes = {
        **_squares(16),
        'backbone.img_size': 4 * _side,
        'backbone.arch': dict(_delete_=True, embed_dims=384, num_layers=2, num_heads=6, feedforward_channels=1536),
        'neck': dict(num_layers=1),
    }
    KNOWN[f'tokens-{_side**2}'] = Entry('vit-s_cifar10.py', (_images, 8 * _images), _changes)


def build_model(name: str, **changes: Any) -> RandSAC:
    """Build a model of :data:`KNOWN` in training mode, with changes of its config, as ``attention='plain'``."""
    cfg = Config(Config.fromfile(CONFIGS / 'randsac' / KNOWN[name].config).model.to_dict())
    cfg.merge_from_dict(KNOWN[name].changes)
    cfg.merge_from_dict(changes)
    init_default_scope('mmpretrain')
    return MODELS.build(cfg)


def build_mae(ours: RandSAC) -> nn.Module:
    """Build mmpretrain's MAE with the encoder of a model; with patches of 16 px for images of 224 px.

    The decoder is MAE's for ViT-B, with heads of 32 numbers and two thirds of the encoder's width, as 512 of 768.
    """
    encoder = ours.backbone
    dims, attention, ffn = encoder.embed_dims, encoder.layers[0].attn, encoder.layers[0].ffn
    arch = dict(embed_dims=dims, num_layers=encoder.num_layers, num_heads=attention.num_heads)
    arch['feedforward_channels'] = ffn.layers[0][0].out_features
    patch = encoder.patch_size
    size = 224 if patch == 16 else encoder.img_size[0]
    cfg = Config.fromfile(CONFIGS / 'peers' / 'mae_vit-t_cifar10.py').model
    cfg.backbone.update(arch=arch, img_size=size, patch_size=patch)
    width = 2 * dims // 3
    decoder = dict(decoder_embed_dim=width, decoder_depth=8, decoder_num_heads=max(1, width // 32))
    cfg.neck.update(num_patches=(size // patch) ** 2, patch_size=patch, embed_dim=dims, **decoder)
    cfg.head.patch_size = patch
    return MODELS.build(cfg)
