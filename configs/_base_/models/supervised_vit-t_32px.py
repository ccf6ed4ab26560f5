# A classifier at 32 px with RandSAC's ViT-T as encoder, its tokens averaged.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='RandSACViT', arch='deit-tiny', img_size=32, patch_size=4, out_type='avg_featmap', drop_path_rate=0.1
    ),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=192,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
    data_preprocessor=dict(
        type='BatchAugmentDataPreprocessor',
        mean=[125.307, 122.961, 113.8575],
        std=[51.5865, 50.847, 51.255],
        to_rgb=False,
    ),
)
