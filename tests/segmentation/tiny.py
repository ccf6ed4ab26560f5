"""A tiny UPerNet from the base config of the real ones, for any patch size, and batches made by hand."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from torch import nn

from randsac_mm.engine import replace_sync_bn

ROOT = Path(__file__).resolve().parents[2]
TINY = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32)


def tiny_model(patch_size: int = 8, classes: int = 7, **changes: dict) -> nn.Module:
    """Make a tiny UPerNet; keywords change its config from the top."""
    from mmseg.registry import MODELS

    init_default_scope('mmseg')
    cfg = Config.fromfile(ROOT / 'configs' / '_base_' / 'models' / 'upernet_vit-b.py')
    side = -(-48 // patch_size) * patch_size
    small = dict(
        data_preprocessor=dict(size=(side, side), test_cfg=dict(size_divisor=patch_size)),
        backbone=dict(arch=dict(_delete_=True, **TINY), img_size=side, patch_size=patch_size),
        neck=dict(embed_dims=16, patch_size=patch_size),
        decode_head=dict(in_channels=[16] * 4, channels=16, num_classes=classes),
        auxiliary_head=dict(in_channels=16, channels=8, num_classes=classes),
        test_cfg=dict(crop_size=(side, side), stride=(side * 2 // 3, side * 2 // 3)),
    )
    cfg.merge_from_dict(dict(model=small))
    cfg.merge_from_dict(dict(model=changes))
    replace_sync_bn(cfg)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


def make_batch(*sizes: tuple[int, int], classes: int = 7, label: int | None = None) -> dict:
    """Make a batch as the data loader does, of images of the given sizes."""
    from mmseg.structures import SegDataSample

    inputs, samples = [], []
    for size in sizes:
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
        labels = torch.randint(0, classes, (1, *size)) if label is None else torch.full((1, *size), label)
        sample.gt_sem_seg = PixelData(data=labels)
        inputs.append(torch.randint(0, 256, (3, *size), dtype=torch.uint8))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)
