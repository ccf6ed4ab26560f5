# UPerNet on ADE20K from mmpretrain's MAE: recipe and pyramid of RandSAC's, mmpretrain's own ViT with its class token.
#
# Command:  bash tools/dist_train.sh configs/peers/upernet_mae-vit-b_ade20k-512.py 8
# Cost:     160,000 steps of 16 crops
# Expected: not run by us yet
_base_ = '../segmentation/upernet_vit-b_ade20k-512.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.VisionTransformer',
        arch='base',
        img_size=512,
        patch_size=16,
        out_indices=(3, 5, 7, 11),
        out_type='featmap',
        drop_path_rate=0.1,
        init_cfg=dict(type='StrictPretrained', checkpoint='checkpoints/mae_vit-base-p16.pth'),
    )
)
