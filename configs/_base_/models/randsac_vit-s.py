# ViT-S of the paper for ImageNet-100: 224 px, 196 tokens, decoder of 4 layers with 12 heads (C.1.2).
model = dict(
    type='RandSAC',
    backbone=dict(type='RandSACViT', arch='deit-small', img_size=224, patch_size=16),
    neck=dict(
        type='RandSACDecoder',
        num_layers=4,
        embed_dims=384,
        num_heads=12,
        encoder_dims=384,
        encoder_layers=12,
        skip=True,
    ),
    head=dict(type='RandSACHead', embed_dims=384, patch_size=16, norm_pix=True),
    data_preprocessor=dict(
        type='RandSACDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
        serialization=dict(type='RandomSerialization', partition=dict(type='SquarePartition', hierarchy=(16, 4))),
    ),
)
