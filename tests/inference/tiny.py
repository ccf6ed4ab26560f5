"""A tiny UPerNet and a tiny Mask R-CNN, the smoke configs with few classes, and random weights for them."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

SMOKE = Path(__file__).parents[2] / 'configs' / 'smoke'
# As after training: this file is gone.
GONE = dict(type='Pretrained', checkpoint='work_dirs/gone/epoch_9.pth', prefix='backbone.')


def upernet(classes=('sky', 'sea', 'sand'), padded=True):
    cfg = Config.fromfile(SMOKE / 'upernet_vit_shapes.py')
    cfg.model.backbone.init_cfg = GONE
    cfg.model.test_cfg = dict(mode='whole')
    cfg.model.decode_head.num_classes = cfg.model.auxiliary_head.num_classes = len(classes)
    for loss in (cfg.model.decode_head.loss_decode, cfg.model.auxiliary_head.loss_decode):
        loss.avg_non_ignore = True  # mmseg warns without it
    if not padded:
        del cfg.model.data_preprocessor.test_cfg
    return _with_classes(cfg, 'BaseSegDataset', classes)


def mask_rcnn(classes=('cat', 'dog')):
    cfg = Config.fromfile(SMOKE / 'mask-rcnn_vit_shapes.py')
    cfg.model.backbone.init_cfg = GONE
    for head in (cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head):
        head.num_classes = len(classes)
    cfg.model.test_cfg.rpn.update(nms_pre=100, max_per_img=20)
    cfg.model.test_cfg.rcnn.max_per_img = 9
    return _with_classes(cfg, 'CocoDataset', classes)


def _with_classes(cfg, dataset, classes):
    pipeline = cfg.test_dataloader.dataset.pipeline
    cfg.test_dataloader.dataset = dict(
        type=dataset, data_root='gone', metainfo=dict(classes=classes), test_mode=True, pipeline=pipeline
    )
    return cfg


def save_weights(cfg, path, seed=0, **meta):
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    for name, value in model.state_dict().items():
        if value.dtype.is_floating_point and not name.endswith('pos_embed'):
            value.add_((torch.rand_like if 'running' in name else torch.randn_like)(value), alpha=0.05)
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, path)
    return path
