# A linear classifier on a frozen ViT-B: the last layer's tokens averaged, batch norm without affine parameters (D.3).
model = dict(
    type='ImageClassifier',
    # All layers are frozen, their norm as well; nothing in the backbone changes or keeps a gradient.
    backbone=dict(type='RandSACViT', arch='base', img_size=224, patch_size=16, frozen_stages=12),
    neck=[dict(type='GlobalAveragePooling'), dict(type='ClsBatchNormNeck', input_features=768, affine=False, eps=1e-6)],
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=768,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.01),
    ),
    data_preprocessor=dict(
        type='ClsDataPreprocessor',
        num_classes=1000,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
)
