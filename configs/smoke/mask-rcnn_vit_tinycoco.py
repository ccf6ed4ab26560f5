# A small Mask R-CNN overfits eight real COCO images from random weights, which shows that every part of it learns.
#
# Command:  python tools/train.py configs/smoke/mask-rcnn_vit_tinycoco.py
# Cost:     1,500 steps of about 0.5 s of CPU time on one core of an AMD EPYC, OMP_NUM_THREADS=1
# Expected: on the same images, seed 0: box AP 97.8 %, mask AP 67.2 % (AP over IoU 0.5 to 0.95)
#
# The data, a subset of COCO 2017, are no part of this repository. Any other annotation file does, with other places in
# `images`.
_base_ = [
    '../_base_/models/mask-rcnn_vit_8px.py',
    '../_base_/datasets/coco_1333x800.py',
    '../_base_/detection_runtime.py',
]

data_root = '../shared/data/tinycoco/'
# The first eight by file name among those that show anything to detect: 6818, 17627, 37777, 41888, 87038, 143931,
# 153299, 174482 (their places in the annotation file).
images = [6, 19, 1, 30, 3, 20, 26, 4]
scale = (288, 288)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(
        type='PackDetInputs',
        # 'instances': the evaluator compares with these images' own annotations, not with the whole file's.
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances'),
    ),
]
dataset = dict(
    data_root=data_root,
    ann_file='annotations/instances_train2017.json',
    data_prefix=dict(img='images/train2017/'),
    indices=images,
)
train_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    batch_sampler=None,
    dataset=dict(filter_cfg=None, pipeline=train_pipeline, **dataset),
)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=None)
test_evaluator = val_evaluator

max_iters = 1500
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-4, betas=(0.9, 0.999), weight_decay=0.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=max_iters, milestones=[1100, 1400], gamma=0.2),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=250)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(by_epoch=False, interval=250, max_keep_ckpts=2))
log_processor = dict(by_epoch=False)
