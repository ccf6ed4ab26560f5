# Mask R-CNN on your own images, 500 to 50,000 of any size with annotations in COCO's format, one GPU.
# `randsac-mm detect` makes a copy of this file that fits your images and your encoder. By hand: copy it beside itself
# and change the lines under "Yours"; all that depends on them follows. docs/own_data.md says what may be in the files;
# tools/masks_to_coco.py makes them from folders of masks.
#
# Command:  cp configs/detection/mask-rcnn_vit-s_own_coco.py configs/detection/my_data.py
#           python tools/check_data.py configs/detection/my_data.py --sheet pictures
#           python tools/train.py configs/detection/my_data.py
# Cost:     9,000 steps of 4 images at 444 G multiply-adds an image of 1024 px, thrice that with backward
# Expected: depends on the data
_base_ = './mask-rcnn_vit-b_fpn_coco.py'

# Yours
data_root = 'data/own/'
classes = ('object',)  # as the annotation files name them; a single one keeps its comma
train = dict(ann_file='train.json', data_prefix=dict(img='images/'))
val = dict(ann_file='val.json', data_prefix=dict(img='images/'))
masks = True  # False: annotations have boxes only, which makes it a Faster R-CNN
checkpoint = 'work_dirs/vit-s_folder/epoch_800.pth'  # of pre-training; None: random weights

# The encoder and its input, as in pre-training
encoder = dict(arch='deit-small', img_size=224, patch_size=16, in_channels=3)
embed_dims = 384
mean = [123.675, 116.28, 103.53]
std = [58.395, 57.12, 57.375]

# Sizes and length
scale = (1333, 800)  # px, long and short side of an image at most
strides = [4, 8, 16, 32, 64]  # px, of the pyramid; a half, a whole, 2, 4 and 8 patches of less than 8 px
size_divisor = 32  # px, to a multiple of which images are padded: one of the patch size, too
max_per_img = 100  # objects found in an image
anchor_scale = 8  # the smallest anchors have 4 times as many pixels a side: 2 for objects of 8 px, 4 for 16 px
groups = 32  # of group norm in the pyramid, which suits batches of any size
batch_size = 4
max_iters = 9000  # steps: about 36 x images / batch_size
validations = 10  # and checkpoints, during the training
bfloat16 = True  # False: float32, for a CPU that is slow in bfloat16

colour, patch_size = encoder['in_channels'] == 3, encoder['patch_size']
norm_cfg = dict(type='GN', num_groups=groups, requires_grad=True)
extractor = dict(featmap_strides=strides[:4], finest_scale=14 * strides[0])
model = dict(
    data_preprocessor=dict(mean=mean, std=std, bgr_to_rgb=colour, pad_mask=masks, pad_size_divisor=size_divisor),
    backbone=dict(init_cfg=checkpoint and dict(type='StrictPretrained', checkpoint=checkpoint), **encoder),
    neck=[
        dict(type='ViTPyramid', embed_dims=embed_dims, patch_size=max(patch_size, 8), norm_cfg=norm_cfg),
        dict(type='FPN', in_channels=[embed_dims] * 4, out_channels=256, num_outs=5),
    ],
    rpn_head=dict(anchor_generator=dict(scales=[anchor_scale], strides=strides)),
    roi_head=dict(
        bbox_roi_extractor=extractor,
        bbox_head=dict(num_classes=len(classes)),
        mask_roi_extractor=extractor if masks else None,
        mask_head=dict(num_classes=len(classes)) if masks else None,
    ),
    test_cfg=dict(rpn=dict(max_per_img=max(1000, 3 * max_per_img)), rcnn=dict(max_per_img=max_per_img)),
)
read = dict(type='LoadImageFromFile', color_type='color' if colour else 'grayscale')
annotations = dict(type='LoadAnnotations', with_bbox=True, with_mask=masks)
resize = dict(type='Resize', scale=scale, keep_ratio=True)
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
train_pipeline = [read, annotations, resize, dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
test_pipeline = [read, resize, annotations, dict(type='PackDetInputs', meta_keys=meta_keys)]
source = dict(data_root=data_root, metainfo=dict(classes=classes))
auto_num_workers = 8
train_dataloader = dict(
    batch_size=batch_size,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(pipeline=train_pipeline, filter_cfg=dict(filter_empty_gt=True, min_size=1), **source, **train),
)
val_dataloader = dict(num_workers=2, dataset=dict(pipeline=test_pipeline, **source, **val))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + val['ann_file'], metric=['bbox', 'segm'] if masks else ['bbox'])
test_evaluator = val_evaluator

# In bfloat16 what computes, but not mmcv's RoIAlign and non-maximum suppression, which know none.
modules = ['backbone', 'neck', 'rpn_head', 'roi_head.bbox_head', *(['roi_head.mask_head'] if masks else [])]
optim_wrapper = dict(
    _delete_=True,
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.75, norm_decay_mult=0.0, bias_decay_mult=0.0),
    optimizer=dict(type='AdamW', lr=1e-4 * (batch_size / 16) ** 0.5, weight_decay=0.05, fused=True),
    **(dict(type='AutocastOptimWrapper', modules=modules) if bfloat16 else dict(type='OptimWrapper')),
)
warmup, interval = max_iters // 40 + 1, max_iters // validations + 1
milestones = [max_iters * 3 // 4, max_iters * 11 // 12]
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=warmup),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=max_iters, milestones=milestones, gamma=0.1),
]
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=interval)
auto_scale_lr = dict(base_batch_size=batch_size)
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=interval, save_best='coco/segm_mAP' if masks else 'coco/bbox_mAP'),
)
