# The same for 32 px: a frozen ViT-T, and images that are cropped and flipped batch by batch.
_base_ = './linear-probe_vit-b.py'

model = dict(
    backbone=dict(arch='deit-tiny', img_size=32, patch_size=4),
    neck=[dict(type='GlobalAveragePooling'), dict(type='ClsBatchNormNeck', input_features=192, affine=False, eps=1e-6)],
    head=dict(num_classes=10, in_channels=192),
    data_preprocessor=dict(
        _delete_=True,
        type='BatchAugmentDataPreprocessor',
        mean=[125.307, 122.961, 113.8575],
        std=[51.5865, 50.847, 51.255],
        to_rgb=False,
    ),
)
