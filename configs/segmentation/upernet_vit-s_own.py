# UPerNet on your own photographs and masks: 500 to 50,000 images of any size, one GPU. Copy this file beside itself
# and change the lines under "Yours"; all that depends on them follows. docs/own_data.md says what the folders have.
#
# Command:  cp configs/segmentation/upernet_vit-s_own.py configs/segmentation/my_data.py
#           python tools/check_data.py configs/segmentation/my_data.py --sheet pictures
#           python tools/train.py configs/segmentation/my_data.py
# Cost:     20,000 steps of 8 crops of 512 px, 250 G multiply-adds each, thrice that with backward
# Expected: depends on the data; the best checkpoint by mIoU is kept as best_mIoU_*.pth
_base_ = [
    '../_base_/models/upernet_vit-b.py',
    '../_base_/datasets/ade20k_512.py',
    '../_base_/schedules/segmentation_160k.py',
    '../_base_/segmentation_runtime.py',
]

# Yours
data_root = 'data/own'  # with images/{train,val} and, of the same names, masks/{train,val}
classes = ('background', 'object')
values = None  # the value of each class in the masks; None: 0, 1, 2, ...
unlabelled = 255  # the value of pixels that count as no class, several as (0, 255); None: every pixel has a class
checkpoint = 'work_dirs/vit-s_folder/epoch_800.pth'  # of pre-training; None: random weights

max_iters, interval, batch_size = 20000, 1000, 8
# Group norm: a batch may be small, and nothing depends on the other images in it.
norm_cfg = dict(type='GN', num_groups=32, requires_grad=True)
head = dict(num_classes=len(classes), norm_cfg=norm_cfg)
model = dict(
    backbone=dict(arch='deit-small', init_cfg=checkpoint and dict(type='StrictPretrained', checkpoint=checkpoint)),
    neck=dict(embed_dims=384, norm_cfg=norm_cfg),
    decode_head=dict(in_channels=[384] * 4, channels=512, **head),
    auxiliary_head=dict(in_channels=384, **head),
)
source = dict(
    type='SegmentationFolder', data_root=data_root, classes=classes, values=values, unlabelled=unlabelled,
)  # fmt: skip
train_dataloader = dict(
    batch_size=batch_size, dataset=dict(data_prefix=dict(img_path='images/train', seg_map_path='masks/train'), **source)
)
val_dataloader = dict(dataset=dict(data_prefix=dict(img_path='images/val', seg_map_path='masks/val'), **source))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=7e-4 * batch_size / 16))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=500, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=interval)
auto_scale_lr = dict(base_batch_size=batch_size)
default_hooks = dict(checkpoint=dict(interval=interval, save_best='mIoU'))
