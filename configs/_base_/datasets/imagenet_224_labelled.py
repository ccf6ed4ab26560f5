# ImageNet-1K with labels at 224 px, as data/imagenet/{train,val}/<class>/<image>: resized crops and flips (D.3).
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224, crop_ratio_range=(0.08, 1.0), backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
# tools/train.py starts one worker for each core of a process, but not more than this number.
auto_num_workers = 32
train_dataloader = dict(
    batch_size=2048,
    num_workers=8,  # of each process, without tools/train.py or auto_num_workers
    # Fresh workers with fresh seeds in every epoch, so that a resumed run sees the same crops as an uninterrupted one.
    persistent_workers=False,
    pin_memory=True,
    drop_last=True,
    worker_init_fn=dict(type='seed_worker'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='ImageNet', data_root='data/imagenet', data_prefix='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=8,
    persistent_workers=False,
    pin_memory=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='ImageNet', data_root='data/imagenet', data_prefix='val', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
