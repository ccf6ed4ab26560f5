# ImageNet-1K at 192 px (D.2), in the layout data/imagenet/train/<class>/<image>. 8 GPUs x 512 = 4,096.
# Resized crops and flips only, as MAE (B.4): no colour jitter.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=192, crop_ratio_range=(0.2, 1.0), backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
# Decoding takes most of the time. To do it only once, into a file of small copies that all processes share, add
#     --cfg-options train_dataloader.dataset.type=CachedImages train_dataloader.dataset.source=ImageNet
# The crops are then taken from copies of 256 px, not from the files: see randsac_mm/datasets/cache.py.
# tools/train.py starts one worker for each core of a process, but not more than this number: each of them holds two
# batches in shared memory: 57 MB for 512 images of 192 px, uint8.
auto_num_workers = 32
train_dataloader = dict(
    batch_size=512,
    num_workers=8,  # of each process, without tools/train.py or auto_num_workers
    # Fresh workers with fresh seeds in every epoch, so that a resumed run sees the same crops as an uninterrupted one.
    persistent_workers=False,
    pin_memory=True,  # tools/train.py leaves it out where there is no GPU
    drop_last=True,
    worker_init_fn=dict(type='seed_worker'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='ImageNet', data_root='data/imagenet', data_prefix='train', with_label=False, pipeline=train_pipeline
    ),
)
