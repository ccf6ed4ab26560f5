# Mask R-CNN with all parts of the real recipe, tiny, on generated pictures in COCO's format: seconds on a CPU.
#
# Command:  python tools/make_shapes.py && python tools/train.py configs/smoke/mask-rcnn_vit_shapes.py
# Cost:     half a minute, most of it imports
# Expected: it runs; 8 steps teach nothing
_base_ = [
    '../_base_/models/mask-rcnn_vit_8px.py',
    '../_base_/datasets/coco_1333x800.py',
    '../_base_/schedules/detection_12e.py',
    '../_base_/detection_runtime.py',
]

data_root = 'data/shapes/coco/'
scale = (128, 128)
max_epochs = 2

# As in the real recipe; several processes average its statistics, on CPUs too.
sync_bn = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(arch=dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64), drop_path_rate=0.1),
    neck=[
        dict(type='ViTPyramid', embed_dims=32, patch_size=8, norm_cfg=sync_bn),
        dict(type='FPN', in_channels=[32, 32, 32, 32], out_channels=16, num_outs=5),
    ],
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16),
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    num_workers=0,
    # Pictures without anything to detect are trained on as well.
    dataset=dict(data_root=data_root, pipeline=train_pipeline, filter_cfg=dict(filter_empty_gt=False)),
)
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=test_pipeline)
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=2),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, milestones=[1], gamma=0.1),
]
train_cfg = dict(max_epochs=max_epochs)
default_hooks = dict(logger=dict(interval=1))
