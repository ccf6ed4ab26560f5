# ViT-T of the paper for CIFAR: 32 px, 64 tokens, decoder of 3 layers (C.1.1).
model = dict(
    type='RandSAC',
    backbone=dict(type='RandSACViT', arch='deit-tiny', img_size=32, patch_size=4),
    neck=dict(type='RandSACDecoder', num_layers=3, embed_dims=192, num_heads=3, skip=True),
    head=dict(type='RandSACHead', norm_pix=True),
    data_preprocessor=dict(
        type='RandSACDataPreprocessor',
        mean=[125.307, 122.961, 113.8575],
        std=[51.5865, 50.847, 51.255],
        to_rgb=False,
        serialization=dict(type='RandomSerialization', partition=dict(type='SquarePartition', hierarchy=(16, 4))),
    ),
)
