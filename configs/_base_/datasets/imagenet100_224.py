# ImageNet-100 at 224 px (C.1.2): the 100 classes of CMC, as data/imagenet100/train/<class>/<image>.
# 8 GPUs x 512 = 4,096.
_base_ = './imagenet_192.py'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224, crop_ratio_range=(0.2, 1.0), backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(data_root='data/imagenet100', pipeline=train_pipeline))
