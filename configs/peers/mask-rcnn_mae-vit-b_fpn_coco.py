# Mask R-CNN on COCO from mmpretrain's MAE: recipe and pyramid of RandSAC's, mmpretrain's own ViT with its class token.
#
# Command:  bash tools/dist_train.sh configs/peers/mask-rcnn_mae-vit-b_fpn_coco.py 8
# Cost:     12 epochs x 117 k images
# Expected: not run by us yet
_base_ = '../detection/mask-rcnn_vit-b_fpn_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.VisionTransformer',
        arch='base',
        img_size=224,  # positions are resized to each image
        patch_size=16,
        out_indices=(2, 5, 8, 11),
        out_type='featmap',
        drop_path_rate=0.1,
        init_cfg=dict(type='StrictPretrained', checkpoint='checkpoints/mae_vit-base-p16.pth'),
    )
)
