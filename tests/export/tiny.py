"""Checkpoints of tiny models as mmengine's runners save them; every weight, norms and biases too, is random."""

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from mmpretrain.registry import MODELS

import randsac_mm  # noqa: F401  registers the models

ARCH = dict(embed_dims=12, num_layers=3, num_heads=3, feedforward_channels=17)
MEAN, STD = (125.3, 122.9, 113.8), (51.5, 50.8, 51.2)


def model_config(kind='RandSAC', size=(12, 20), patch=4, channels=3, arch=ARCH, **backbone):
    """Make the config of a pre-training, two-stream or classification model."""
    statistics = dict(mean=list(MEAN[:channels]), std=list(STD[:channels]))
    cfg = dict(
        type=kind,
        backbone=dict(
            type='RandSACViT', arch=dict(arch), img_size=size, patch_size=patch, in_channels=channels, **backbone
        ),
        data_preprocessor=statistics,
    )
    if kind == 'ImageClassifier':
        pooled = backbone.get('out_type') == 'avg_featmap'
        cfg['neck'] = None if pooled else dict(type='GlobalAveragePooling')
        cfg['head'] = dict(type='LinearClsHead', num_classes=5, in_channels=arch['embed_dims'])
        return cfg
    serialization = dict(type='RandomSerialization', partition=dict(type='PatchPartition'))
    statistics.update(type='RandSACDataPreprocessor', serialization=serialization)
    cfg['head'] = dict(type='RandSACHead', embed_dims=arch['embed_dims'], patch_size=patch, in_channels=channels)
    if kind == 'RandSAC':
        sizes = dict(embed_dims=12, num_heads=2, encoder_dims=arch['embed_dims'], encoder_layers=arch['num_layers'])
        cfg['neck'] = dict(type='RandSACDecoder', num_layers=1, skip=True, **sizes)
        cfg['head']['embed_dims'] = 12
    return cfg


def build(cfg):
    """Build a model in which no two weights are equal, fixed positions apart."""
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg)
    DefaultScope._instance_dict.clear()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith('pos_embed'):
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval()


def save(path, state, cfg=None):
    """Save a state dict, with the text of its config as a runner does, or without."""
    meta = {'epoch': 1} if cfg is None else {'epoch': 1, 'cfg': Config(dict(model=cfg)).pretty_text}
    torch.save({'meta': meta, 'state_dict': state}, path)
    return path


def checkpoint(path, *args, **options):
    """Build and save a model; return the path and the model."""
    cfg = model_config(*args, **options)
    model = build(cfg)
    return save(path, model.state_dict(), cfg), model
