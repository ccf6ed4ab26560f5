"""Contract: a config outside this repository trains by mmseg's and mmdet's own tools/train.py, our parts by name."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from transfer.three_models import ARCH, DIMS, PATCH, SIZE

from randsac_mm.transfer.reading import read_checkpoint
from tools.make_shapes import make_shapes

# What both projects say: our names, and small numbers. Nothing of this repository's configs, engine or tools.
OURS = f"""
custom_imports = dict(imports=['randsac_mm'], allow_failed_imports=False)
norm_cfg = dict(type='BN', requires_grad=True)
backbone = dict(
    _delete_=True,
    type='mmpretrain.RandSACViT',
    arch=dict({', '.join(f'{key}={value}' for key, value in ARCH.items())}),
    img_size={SIZE},
    patch_size={PATCH},
    out_indices='OUT_INDICES',
    init_cfg=dict(type='StrictPretrained', checkpoint='CHECKPOINT'),
)
pyramid = dict(type='ViTPyramid', embed_dims={DIMS}, patch_size={PATCH}, norm_cfg=norm_cfg)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.65, norm_decay_mult=0.0, bias_decay_mult=0.0),
)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3))
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=3, val_interval=3)
param_scheduler = [dict(type='LinearLR', start_factor=0.5, by_epoch=False, begin=0, end=3)]
log_processor = dict(by_epoch=False)
loader = dict(batch_size=2, num_workers=0, persistent_workers=False)
"""
SEGMENTATION = """
_base_ = [BASES]
OURS
small = dict(channels=8, num_classes=150, norm_cfg=norm_cfg)
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(64, 64)),
    backbone=backbone,
    neck=pyramid,
    decode_head=dict(in_channels=[16] * 4, **small),
    auxiliary_head=dict(in_channels=16, **small),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='RandomCrop', crop_size=(64, 64)),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=False),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(data_root='DATA', pipeline=train_pipeline), **loader)
val_dataloader = dict(dataset=dict(data_root='DATA', pipeline=test_pipeline), num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
"""
DETECTION = """
_base_ = [BASES]
OURS
fpn = dict(type='FPN', in_channels=[16] * 4, out_channels=8, num_outs=5)
model = dict(
    backbone=backbone,
    neck=[pyramid, fpn],
    rpn_head=dict(in_channels=8, feat_channels=8),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=8),
        bbox_head=dict(in_channels=8, fc_out_channels=8),
        mask_roi_extractor=dict(out_channels=8),
        mask_head=dict(in_channels=8, conv_out_channels=8, num_convs=1),
    ),
    test_cfg=dict(rcnn=dict(score_thr=0.001, max_per_img=5)),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
small = dict(data_root='DATA')
train_dataloader = dict(
    sampler=dict(type='InfiniteSampler'), dataset=dict(pipeline=train_pipeline, **small), **loader
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, **small), num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='DATA/annotations/instances_val2017.json')
test_evaluator = val_evaluator
"""
PROJECTS = {
    'mmseg': (
        SEGMENTATION,
        ('models/upernet_r50.py', 'datasets/ade20k.py', 'schedules/schedule_20k.py', 'default_runtime.py'),
        'ade20k',
        'segmentation',
        'mIoU:',
    ),
    'mmdet': (
        DETECTION,
        ('models/mask-rcnn_r50_fpn.py', 'datasets/coco_instance.py', 'schedules/schedule_1x.py', 'default_runtime.py'),
        'coco',
        'detection',
        'coco/segm_mAP:',
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize('library', PROJECTS)
def test_librarys_own_tool_trains_with_our_parts(tmp_path, pretrained, root, library):
    text, bases, data, task, metric = PROJECTS[library]
    make_shapes(tmp_path / 'shapes', images=3, val=1, size=(72, 88))
    installed = Path(find_spec(library).origin).parent / '.mim'
    config = tmp_path / 'project' / 'config.py'
    config.parent.mkdir()
    values = {
        'OURS': OURS,
        'OUT_INDICES': task,
        'CHECKPOINT': str(pretrained[0]),
        'DATA': str(tmp_path / 'shapes' / data),
        'BASES': ', '.join(repr(str(installed / 'configs' / '_base_' / base)) for base in bases),
    }
    for name, value in values.items():
        text = re.sub(rf'\b{name}\b', lambda _, value=value: value, text)
    config.write_text(text)
    done = subprocess.run(
        [sys.executable, str(installed / 'tools' / 'train.py'), str(config), '--work-dir', 'work'],
        cwd=config.parent,
        env={**os.environ, 'PYTHONPATH': str(root), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        check=False,
    )
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-6000:]
    assert re.search(r"RandSACViT from .*iter_2.pth, prefix 'backbone.'\n *loaded \(5[0-9]\)", log)
    assert 'layer_decay_rate=0.65, lr=0.001, lr_scale of 12 groups' in log
    assert len(re.findall(r'Iter\(train\) .* loss: [0-9.]+', log)) == 3
    assert metric in log

    # Three small steps away from the checkpoint, and further where the learning rate is larger.
    trained = read_checkpoint(config.parent / 'work' / 'iter_3.pth')['state_dict']
    moved = [
        (trained[name] - pretrained[1][name]).abs().max().item()
        for name in (f'backbone.layers.{i}.attn.qkv.weight' for i in range(4))
    ]
    assert 0 < moved[0] < moved[3] < 3.1e-3
