# A tiny UPerNet on generated pictures of coloured shapes, in ADE20K's format: every part of the recipe in seconds.
#
# Command:  python tools/make_shapes.py && python tools/train.py configs/smoke/upernet_vit_shapes.py
# Cost:     half a minute on one core
# Expected: a falling loss; 40 steps teach which ground it is and little of the shapes
_base_ = [
    '../_base_/models/upernet_vit-b.py',
    '../_base_/datasets/ade20k_512.py',
    '../_base_/schedules/segmentation_160k.py',
    '../_base_/segmentation_runtime.py',
]

crop_size = (64, 64)
data_root = 'data/shapes/ade20k'
model = dict(
    data_preprocessor=dict(size=crop_size, test_cfg=dict(size_divisor=8)),
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64),
        img_size=64,
        patch_size=8,
        drop_path_rate=0.1,
    ),
    neck=dict(embed_dims=32, patch_size=8),
    decode_head=dict(in_channels=[32] * 4, channels=32),
    auxiliary_head=dict(in_channels=32, channels=16),
    test_cfg=dict(crop_size=crop_size, stride=(43, 43)),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(256, 64), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(256, 64), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=train_pipeline)
)
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=test_pipeline)
)
test_dataloader = val_dataloader

max_iters = 40
warmup_iters = 4
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=warmup_iters),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=warmup_iters, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=20)
default_hooks = dict(logger=dict(interval=5), checkpoint=dict(interval=20))
