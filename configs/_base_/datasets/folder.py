# A folder of your own images, of any nesting, without labels. Set data_root; nothing else need change.
# Resized crops and flips only, as MAE (B.4): no colour jitter.
train_pipeline = [
    dict(type='LoadImageStrict'),
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
# Decoding takes most of the time. To do it only once, into a file of small copies that all processes share, add
#     --cfg-options train_dataloader.dataset.type=CachedImages
# The crops are then taken from copies of 256 px, not from the files: see randsac_mm/datasets/cache.py.
# tools/train.py starts one worker for each core of a process, but not more than this number: each of them holds two
# batches of 39 MB (256 images of 224 px, uint8) in shared memory.
auto_num_workers = 32
train_dataloader = dict(
    batch_size=256,
    num_workers=8,  # of each process, without tools/train.py or auto_num_workers
    # Fresh workers with fresh seeds in every epoch, so that a resumed run sees the same crops as an uninterrupted one.
    persistent_workers=False,
    pin_memory=True,  # tools/train.py leaves it out where there is no GPU
    drop_last=True,
    worker_init_fn=dict(type='seed_worker'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='UnlabelledImageFolder',
        data_root='data/images',
        pipeline=train_pipeline,
    ),
)
