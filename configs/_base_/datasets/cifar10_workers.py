# CIFAR-10 at its own 32 px (C.1.1, D.1): the original files, or those of tools/prepare_cifar10.py.
# Resized crops and flips only, as MAE (B.4): no colour jitter. By worker processes, one by one; cifar10.py is faster.
augment = None  # nothing is left to do for the data preprocessor
train_pipeline = [
    dict(type='RandomResizedCrop', scale=32, crop_ratio_range=(0.2, 1.0), backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=512,
    num_workers=4,
    # Fresh workers with fresh seeds in every epoch, so that a resumed run sees the same crops as an uninterrupted one.
    persistent_workers=False,
    pin_memory=True,
    drop_last=True,
    worker_init_fn=dict(type='seed_worker'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='PreparedCIFAR10', data_root='data/cifar10', split='train', pipeline=train_pipeline),
)
