# mmpretrain's MAE at 32 px: encoder, width and depth of the decoder as RandSAC's ViT-T (D.1); 75 % of patches masked.
model = dict(
    type='MAE',
    backbone=dict(
        type='MAEViT',
        arch='deit-tiny',
        img_size=32,
        patch_size=4,
        mask_ratio=0.75,
    ),
    neck=dict(
        type='MAEPretrainDecoder',
        num_patches=64,
        patch_size=4,
        in_chans=3,
        embed_dim=192,
        decoder_embed_dim=192,
        decoder_depth=3,
        decoder_num_heads=3,
        mlp_ratio=4,
    ),
    head=dict(
        type='MAEPretrainHead',
        norm_pix=True,
        patch_size=4,
        loss=dict(type='PixelReconstructionLoss', criterion='L2'),
    ),
    # As mmpretrain's own MAE config.
    init_cfg=[
        dict(type='Xavier', layer='Linear', distribution='uniform'),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ],
    data_preprocessor=dict(
        type='BatchAugmentDataPreprocessor',
        mean=[125.307, 122.961, 113.8575],
        std=[51.5865, 50.847, 51.255],
        to_rgb=False,
    ),
)
