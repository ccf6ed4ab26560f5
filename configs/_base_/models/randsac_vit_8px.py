# A small ViT for 8 x 8 grey images: P = 2, 16 tokens, each a segment of its own in 4 groups of 2 x 2 (16 -> 4).
model = dict(
    type='RandSAC',
    backbone=dict(
        type='RandSACViT',
        arch=dict(embed_dims=96, num_layers=4, num_heads=4, feedforward_channels=384),
        img_size=8,
        patch_size=2,
        in_channels=1,
    ),
    neck=dict(type='RandSACDecoder', num_layers=2, embed_dims=96, num_heads=4, skip=True),
    head=dict(type='RandSACHead', norm_pix=False),
    data_preprocessor=dict(
        type='RandSACDataPreprocessor',
        mean=[77.94],
        std=[95.91],
        serialization=dict(type='RandomSerialization', partition=dict(type='SquarePartition', hierarchy=(16, 4))),
    ),
)
