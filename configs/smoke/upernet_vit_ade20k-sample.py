# A small UPerNet overfits three real ADE20K images from random weights, which shows that every part of it learns.
#
# Command:  python tools/train.py configs/smoke/upernet_vit_ade20k-sample.py
# Cost:     800 steps of one image, 8 minutes on one core
# Expected: 87.7 % mIoU over the 15 classes of the three images, measured on these (80 % are passed by step 500)
_base_ = [
    '../_base_/models/upernet_vit_8px.py',
    '../_base_/datasets/ade20k_512.py',
    '../_base_/schedules/segmentation_160k.py',
    '../_base_/segmentation_runtime.py',
]

scale = (256, 192)  # long and short side at most
model = dict(
    # Six of the 15 classes fill less than 2 % of their image. Lovász' loss counts classes, not pixels, as mIoU does.
    decode_head=dict(
        loss_decode=[
            dict(type='CrossEntropyLoss', loss_weight=1.0),
            dict(type='LovaszLoss', per_image=False, reduction='none', loss_weight=1.0),
        ]
    )
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
dataset = dict(
    data_root='../shared/data/ade20k_sample', data_prefix=dict(img_path='images', seg_map_path='annotations')
)
train_dataloader = dict(
    batch_size=1, num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline, **dataset)
)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader

max_iters = 800
warmup_iters = 20
optim_wrapper = dict(
    constructor='DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True, norm_decay_mult=0.0, bias_decay_mult=0.0),
    optimizer=dict(lr=3e-3, weight_decay=0.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=warmup_iters),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=warmup_iters, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=100)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=100))
