# A folder of your own images, of any nesting, without labels. Set data_root; nothing else need change.
# To decode every file only once: --cfg-options train_dataloader.dataset.type=CachedImages, see imagenet_192.py.
_base_ = './imagenet_192.py'

train_pipeline = [
    dict(type='LoadImageStrict'),
    dict(type='RandomResizedCrop', scale=224, crop_ratio_range=(0.2, 1.0), backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=256,
    dataset=dict(_delete_=True, type='UnlabelledImageFolder', data_root='data/images', pipeline=train_pipeline),
)
