# Fine-tuning on the digits, from the checkpoint of a pre-training on them: every part of the recipe in seconds.
#
# Command:  python tools/train.py configs/smoke/randsac_vit_digits.py &&
#               python tools/train.py configs/smoke/finetune_vit_digits.py
# Cost:     a few seconds
# Expected: it runs; four epochs teach little
_base_ = [
    '../_base_/models/finetune_vit-b.py',
    '../_base_/datasets/digits_labelled.py',
    '../_base_/schedules/finetune_4e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=96, num_layers=4, num_heads=4, feedforward_channels=384),
        img_size=8,
        patch_size=2,
        in_channels=1,
        init_cfg=dict(type='StrictPretrained', checkpoint='work_dirs/randsac_vit_digits/epoch_2.pth'),
    ),
    head=dict(num_classes=10, in_channels=96),
    data_preprocessor=dict(num_classes=10, mean=[77.94], std=[95.91], to_rgb=False),
)
train_pipeline = [
    dict(type='RandomResizedCrop', scale=8, crop_ratio_range=(0.6, 1.0), interpolation='bicubic'),
    # What of RandAug suits one channel and digits, which must not be mirrored.
    dict(
        type='RandAugment',
        policies=[
            dict(type='Rotate', magnitude_range=(0, 30)),
            dict(type='Brightness', magnitude_range=(0, 0.9)),
            dict(type='Translate', magnitude_range=(0, 0.2), direction='horizontal'),
            dict(type='Translate', magnitude_range=(0, 0.2), direction='vertical'),
        ],
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=0, interpolation='bicubic'),
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

base_lr = 5e-4  # for 256 images
batch_size = 256
optim_wrapper = dict(optimizer=dict(lr=base_lr * batch_size / 256))
train_cfg = dict(val_interval=2)
auto_scale_lr = dict(base_batch_size=batch_size)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2, max_keep_ckpts=2))
