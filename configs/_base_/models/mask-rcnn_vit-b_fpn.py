# Mask R-CNN on a plain ViT-B (B.2): blocks 3, 6, 9 and 12 are brought to strides 4, 8, 16 and 32, then FPN. Everything
# behind the FPN is mmdet's Mask R-CNN with two fully connected layers for boxes and four convolutions for masks.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),  # a multiple of the patch size; 56, for example, for patches of 14
    backbone=dict(
        _delete_=True,
        type='mmpretrain.RandSACViT',
        arch='base',
        img_size=224,  # any size is read; without a checkpoint, the one to whose grid positions are stretched
        patch_size=16,
        out_indices='detection',
        out_type='featmap',
        drop_path_rate=0.1,
        # Fixed, as in the paper: images of all sizes get positions inside the trained range. Trainable ones would be
        # those of one size, interpolated to all others.
        positions='stretched',
    ),
    neck=[
        dict(type='ViTPyramid', embed_dims=768, patch_size=16, norm_cfg=norm_cfg),
        dict(type='FPN', in_channels=[768, 768, 768, 768], out_channels=256, num_outs=5),
    ],
)
