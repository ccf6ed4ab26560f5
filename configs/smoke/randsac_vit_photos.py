# Pre-trains the small ViT of the transfer smoke configs on a few photographs, for comparison with random weights.
#
# Command:  python tools/train.py configs/smoke/randsac_vit_photos.py
# Cost:     700 steps of 64 crops of 96 px; took 43 minutes of one thread on a crowded machine
# Expected: loss 0.74 at the end; see docs/results for what it is worth
#
# The photographs are no part of this repository; any folder does:
# --cfg-options train_dataloader.dataset.dataset.data_root=/my/photos
_base_ = ['../_base_/models/randsac_vit-b.py', '../_base_/default_runtime.py']

model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=128, num_layers=6, num_heads=4, feedforward_channels=512),
        img_size=96,
        patch_size=8,
    ),
    neck=dict(num_layers=2, embed_dims=128, num_heads=4),
)
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='RepeatDataset',
        times=100,
        dataset=dict(
            type='UnlabelledImageFolder',
            data_root='../shared/data/tinycoco/images/train2017',
            pipeline=[
                dict(type='LoadImageStrict'),
                dict(
                    type='RandomResizedCrop',
                    scale=96,
                    crop_ratio_range=(0.04, 1.0),
                    backend='pillow',
                    interpolation='bicubic',
                ),
                dict(type='RandomFlip', prob=0.5),
                dict(type='PackInputs'),
            ],
        ),
    ),
)

max_epochs = 14
optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={'neck.skip.weight': dict(decay_mult=0.0)}
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, begin=0, end=max_epochs, convert_to_iter_based=True
    ),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs)
default_hooks = dict(logger=dict(interval=20))
