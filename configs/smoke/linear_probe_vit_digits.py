# The linear probe on the digits, from the checkpoint of a pre-training on them: every part of the recipe in seconds.
#
# Command:  python tools/train.py configs/smoke/randsac_vit_digits.py &&
#               python tools/train.py configs/smoke/linear_probe_vit_digits.py
# Cost:     a few seconds
# Expected: it runs; with --epochs 90 and a checkpoint of configs/randsac/vit_digits.py about 95 %
_base_ = [
    '../_base_/models/linear-probe_vit-b.py',
    '../_base_/datasets/digits_labelled.py',
    '../_base_/schedules/linear-probe_90e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=96, num_layers=4, num_heads=4, feedforward_channels=384),
        img_size=8,
        patch_size=2,
        in_channels=1,
        frozen_stages=4,
        init_cfg=dict(type='StrictPretrained', checkpoint='work_dirs/randsac_vit_digits/epoch_2.pth'),
    ),
    neck=[dict(type='GlobalAveragePooling'), dict(type='ClsBatchNormNeck', input_features=96, affine=False, eps=1e-6)],
    head=dict(num_classes=10, in_channels=96),
    data_preprocessor=dict(
        _delete_=True,
        type='BatchAugmentDataPreprocessor',
        mean=[77.94],
        std=[95.91],
        augment=[dict(type='BatchRandomResizedCrop', scale=8, crop_ratio_range=(0.6, 1.0), flip_prob=0.0)],
    ),
)

base_lr = 0.1  # for 256 images
batch_size = 256
max_epochs = 4
warmup_epochs = 1
optim_wrapper = dict(optimizer=dict(lr=base_lr * batch_size / 256))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=warmup_epochs, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=0.0,
        T_max=max_epochs - warmup_epochs,
        by_epoch=True,
        begin=warmup_epochs,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
auto_scale_lr = dict(base_batch_size=batch_size)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2, max_keep_ckpts=2))
