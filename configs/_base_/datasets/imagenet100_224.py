# ImageNet-100 at 224 px (C.1.2): the 100 classes of CMC, as data/imagenet100/train/<class>/<image>.
# 8 GPUs x 512 = 4,096.
# Resized crops and flips only, as MAE (B.4): no colour jitter.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='RandomResizedCrop',
        scale=224,
        crop_ratio_range=(0.2, 1.0),
        aspect_ratio_range=(3.0 / 4.0, 4.0 / 3.0),
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=512,
    num_workers=8,
    # Fresh workers with fresh seeds in every epoch, so that a resumed run sees the same crops as an uninterrupted one.
    persistent_workers=False,
    pin_memory=True,
    drop_last=True,
    worker_init_fn=dict(type='seed_worker'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='ImageNet',
        data_root='data/imagenet100',
        data_prefix='train',
        with_label=False,
        pipeline=train_pipeline,
    ),
)
