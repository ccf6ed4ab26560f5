# UPerNet on your own photographs and masks: 500 to 50,000 images of any size, one GPU. `randsac-mm segment` makes a
# copy of this file that fits your images and your encoder. By hand: copy it beside itself and change the lines under
# "Yours"; all that depends on them follows. docs/own_data.md says what the folders have.
#
# Command:  cp configs/segmentation/upernet_vit-s_own.py configs/segmentation/my_data.py
#           python tools/check_data.py configs/segmentation/my_data.py --sheet pictures
#           python tools/train.py configs/segmentation/my_data.py
# Cost:     20,000 steps of 8 crops of 512 px, 250 G multiply-adds each, thrice that with backward
# Expected: depends on the data; the best checkpoint by mIoU is kept as best_mIoU_*.pth
_base_ = './upernet_vit-b_ade20k-512.py'

# Yours
data_root = 'data/own'
train = dict(data_prefix=dict(img_path='images/train', seg_map_path='masks/train'))  # files of the same names in both
val = dict(data_prefix=dict(img_path='images/val', seg_map_path='masks/val'))
classes = ('background', 'object')
values = None  # the value of each class in the masks; None: 0, 1, 2, ...
unlabelled = 255  # the value of pixels that count as no class, several as (0, 255); None: every pixel has a class
checkpoint = 'work_dirs/vit-s_folder/epoch_800.pth'  # of pre-training; None: random weights

# The encoder and its input, as in pre-training
encoder = dict(arch='deit-small', img_size=224, patch_size=16, in_channels=3)
embed_dims = 384
mean = [123.675, 116.28, 103.53]
std = [58.395, 57.12, 57.375]

# Sizes and length
short_side = 512  # px, of an image as the model reads it: the images' own (median), at most 32 patches
crop_size = (512, 512)  # px, of what is trained on and of the windows that are predicted
channels = 512  # of the head: 4 / 3 of the encoder's
groups = 32  # of group norm, which suits batches of any size: nothing depends on the other images in it
batch_size = 8
max_iters = 20000  # steps: about 100 x images / batch_size
validations = 10  # and checkpoints, during the training
bfloat16 = True  # False: float32, for a CPU that is slow in bfloat16

norm_cfg = dict(type='GN', num_groups=groups, requires_grad=True)
head = dict(num_classes=len(classes), norm_cfg=norm_cfg)
colour, patch_size = encoder['in_channels'] == 3, encoder['patch_size']
model = dict(
    data_preprocessor=dict(
        mean=mean, std=std, bgr_to_rgb=colour, size=crop_size, test_cfg=dict(size_divisor=patch_size)
    ),
    backbone=dict(init_cfg=checkpoint and dict(type='StrictPretrained', checkpoint=checkpoint), **encoder),
    # Patches under 8 px: four maps of patches / 4, / 2, ... as those of 8 px have, not of 4 to 32 px.
    neck=dict(embed_dims=embed_dims, patch_size=max(patch_size, 8), norm_cfg=norm_cfg),
    decode_head=dict(in_channels=[embed_dims] * 4, channels=channels, **head),
    auxiliary_head=dict(in_channels=embed_dims, **head),
    test_cfg=dict(crop_size=crop_size, stride=tuple(side * 2 // 3 for side in crop_size)),
)
read = dict(type='LoadImageFromFile', color_type='color' if colour else 'grayscale')
scale = (4 * short_side, short_side)
train_pipeline = [
    read,
    dict(type='LoadMaskStrict'),
    dict(type='RandomResize', scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    *([dict(type='PhotoMetricDistortion')] if colour else []),
    dict(type='PackSegInputs'),
]
# Masks after Resize: predictions are compared at the image's own size.
test_pipeline = [
    read,
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadMaskStrict'),
    dict(type='PackSegInputs'),
]
source = dict(
    type='SegmentationFolder', data_root=data_root, classes=classes, values=values, unlabelled=unlabelled,
)  # fmt: skip
auto_num_workers = 8
train_dataloader = dict(batch_size=batch_size, dataset=dict(pipeline=train_pipeline, **source, **train))
val_dataloader = dict(num_workers=2, dataset=dict(pipeline=test_pipeline, **source, **val))
test_dataloader = val_dataloader

optim_wrapper = dict(
    type='AutocastOptimWrapper' if bfloat16 else 'OptimWrapper', optimizer=dict(lr=7e-4 * batch_size / 16)
)
warmup, interval = max_iters // 40 + 1, max_iters // validations + 1
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=warmup),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=warmup, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=interval)
auto_scale_lr = dict(base_batch_size=batch_size)
default_hooks = dict(checkpoint=dict(interval=interval, save_best='mIoU'))
