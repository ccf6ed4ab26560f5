# UPerNet on a plain ViT-B (B.1): layers 4, 6, 8 and 12 are brought to strides 4, 8, 16 and 32, as BEiT and MAE do; a
# second, shallow head on the third map helps the training.
#
# Other patch sizes P from 8 to 16: set backbone.patch_size, neck.patch_size and data_preprocessor.test_cfg.size_divisor
# to P, and round the sides of crops and windows to multiples of P (518 for P = 14).
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
        # Images of any size are padded to multiples of the patch size; predictions are cut back to the image.
        test_cfg=dict(size_divisor=16),
    ),
    backbone=dict(
        type='mmpretrain.RandSACViT',
        arch='base',
        img_size=512,
        patch_size=16,
        out_indices='segmentation',
        out_type='featmap',
        drop_path_rate=0.1,
        # Fixed, as in the paper. Crops of 512 px have 7 times as many tokens as the pre-training at 192 px; stretched,
        # their positions all lie inside the trained range.
        positions='stretched',
    ),
    neck=dict(type='ViTPyramid', embed_dims=768, patch_size=16, norm_cfg=norm_cfg),
    decode_head=dict(
        type='UPerHead',
        in_channels=[768, 768, 768, 768],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=768,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=768,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
