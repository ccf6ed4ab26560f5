"""A tiny Mask R-CNN from the smoke config, for any patch size, and batches made by hand."""

from pathlib import Path

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

ROOT = Path(__file__).resolve().parents[2]
CLASSES = 3


def tiny_model(patch_size: int = 8, divisor: int = 32, classes: int = CLASSES, **backbone: object) -> torch.nn.Module:
    """Build the smoke config's model for patches of ``patch_size`` pixels."""
    model: ConfigDict = Config.fromfile(ROOT / 'configs' / 'smoke' / 'mask-rcnn_vit_shapes.py').model
    model.data_preprocessor.pad_size_divisor = divisor
    model.backbone.update(patch_size=patch_size, drop_path_rate=0.0, **backbone)
    model.neck[0].update(patch_size=patch_size, norm_cfg=dict(type='GN', num_groups=4))
    model.roi_head.bbox_head.num_classes = model.roi_head.mask_head.num_classes = classes
    init_default_scope('mmdet')
    torch.manual_seed(0)
    return MODELS.build(model)


def make_batch(*images: tuple[tuple[int, int], list[tuple[float, float, float, float]]]) -> dict:
    """Make a batch as the data loader does: images of some sizes, and boxes filled by their masks."""
    inputs, samples = [], []
    for number, ((height, width), boxes) in enumerate(images):
        masks = np.zeros((len(boxes), height, width), dtype=np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
            mask[int(y1) : max(int(y2), int(y1) + 1), int(x1) : max(int(x2), int(x1) + 1)] = 1
        gt = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            labels=torch.arange(len(boxes)) % CLASSES,
            masks=BitmapMasks(masks, height, width),
        )
        meta = dict(img_id=number, img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0))
        samples.append(DetDataSample(gt_instances=gt, ignored_instances=gt[torch.zeros(0, dtype=torch.long)]))
        samples[-1].set_metainfo(meta)
        inputs.append(torch.randint(256, (3, height, width), dtype=torch.uint8))
    return dict(inputs=inputs, data_samples=samples)
