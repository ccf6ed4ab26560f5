# ViT-B of the paper for ImageNet-1K: 192 px, 144 tokens, decoder of 6 layers with skip connections (D.2).
model = dict(
    type='RandSAC',
    backbone=dict(type='RandSACViT', arch='base', img_size=192, patch_size=16),
    neck=dict(type='RandSACDecoder', num_layers=6, embed_dims=768, num_heads=12, skip=True),
    head=dict(type='RandSACHead', norm_pix=True),
    data_preprocessor=dict(
        type='RandSACDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
        serialization=dict(type='RandomSerialization', partition=dict(type='SquarePartition', hierarchy=(16, 4))),
    ),
)
