# A small UPerNet for CPUs and small images: 6 layers of 128 dims, patches of 8 x 8, whole images.
_base_ = './upernet_vit-b.py'

# Group norm: nothing depends on the other images of a batch, and one image alone can be trained on.
norm_cfg = dict(type='GN', num_groups=8, requires_grad=True)
model = dict(
    data_preprocessor=dict(size=None, size_divisor=8, test_cfg=dict(size_divisor=8)),
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=128, num_layers=6, num_heads=4, feedforward_channels=512),
        img_size=224,
        patch_size=8,
        drop_path_rate=0.0,
    ),
    neck=dict(embed_dims=128, patch_size=8, norm_cfg=norm_cfg),
    decode_head=dict(in_channels=[128] * 4, channels=64, dropout_ratio=0.0, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=128, channels=32, dropout_ratio=0.0, norm_cfg=norm_cfg),
    test_cfg=dict(_delete_=True, mode='whole'),
)
