# Table 6, row "square 16 -> 4" on ImageNet-100: ViT-S, squares in a hierarchy (C.1.2), with skip connections.
#
# Command:  bash tools/dist_train.sh configs/randsac/vit-s_square_in100.py 8
# Cost:     800 epochs x 127 k images at 4503 M multiply-adds, thrice that with backward
# Expected: paper, without skips: linear probe 65.81 %, fine-tuning 85.55 %; this row has not been run by us yet
# Open:     14 x 14 tokens (224 px) cannot be cut in 16 squares, so 192 px as the paper's ImageNet-1K runs: 12 x 12.
_base_ = './vit-s_in100.py'

model = dict(
    backbone=dict(img_size=192),
    data_preprocessor=dict(
        serialization=dict(partition=dict(_delete_=True, type='SquarePartition', hierarchy=(16, 4))),
    ),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='RandomResizedCrop',
        scale=192,
        crop_ratio_range=(0.2, 1.0),
        aspect_ratio_range=(3.0 / 4.0, 4.0 / 3.0),
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
