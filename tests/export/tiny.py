"""Checkpoints of tiny models as mmengine's runners save them; every weight, norms and biases too, is random."""

import torch
from builders import config, perturb
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from mmpretrain.registry import MODELS

ARCH = dict(embed_dims=12, num_layers=3, num_heads=3, feedforward_channels=17)
MEAN, STD = (125.3, 122.9, 113.8), (51.5, 50.8, 51.2)


def model_config(kind='RandSAC', size=(12, 20), patch=4, channels=3, arch=ARCH, **backbone):
    """Make the config of a pre-training, two-stream or classification model."""
    statistics = dict(mean=list(MEAN[:channels]), std=list(STD[:channels]))
    neck = dict(num_layers=1, embed_dims=12, num_heads=2, skip=True) if kind == 'RandSAC' else None
    grid = (size[0] // patch, size[1] // patch)
    cfg = config(dict(type='PatchPartition'), neck, grid, arch=arch, patch=patch, channels=channels, **backbone)
    cfg['data_preprocessor'].update(statistics)
    if kind == 'ImageClassifier':
        pooled = backbone.get('out_type') == 'avg_featmap'
        neck = None if pooled else dict(type='GlobalAveragePooling')
        head = dict(type='LinearClsHead', num_classes=5, in_channels=arch['embed_dims'])
        cfg.update(type=kind, data_preprocessor=statistics, neck=neck, head=head)
    return cfg


def build(cfg):
    """Build a model in which no two weights are equal, fixed positions apart."""
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg)
    DefaultScope._instance_dict.clear()
    return perturb(model).eval()


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
