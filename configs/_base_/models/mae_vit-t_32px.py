# mmpretrain's MAE at 32 px: encoder, width and depth of the decoder as RandSAC's ViT-T (D.1); 75 % of patches masked.
_base_ = 'mmpretrain::_base_/models/mae_vit-base-p16.py'

model = dict(
    backbone=dict(arch='deit-tiny', img_size=32, patch_size=4),
    neck=dict(num_patches=64, patch_size=4, embed_dim=192, decoder_embed_dim=192, decoder_depth=3, decoder_num_heads=3),
    head=dict(patch_size=4),
    data_preprocessor=dict(
        type='BatchAugmentDataPreprocessor',
        mean=[125.307, 122.961, 113.8575],
        std=[51.5865, 50.847, 51.255],
        to_rgb=False,
    ),
)
