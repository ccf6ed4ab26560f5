# No table of the paper: Mask R-CNN on COCO with the ViT-S pre-trained on ImageNet-100; 1x schedule at 1333 x 800 px.
#
# Command:  bash tools/dist_train.sh configs/detection/mask-rcnn_vit-s_fpn_coco.py 8
# Cost:     12 epochs x 117 k images
# Expected: not run by us yet, and the paper has no such row
_base_ = './mask-rcnn_vit-b_fpn_coco.py'

norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(arch='deit-small', init_cfg=dict(checkpoint='work_dirs/vit-s_in100/epoch_800.pth')),
    neck=[
        dict(type='ViTPyramid', embed_dims=384, patch_size=16, norm_cfg=norm_cfg),
        dict(type='FPN', in_channels=[384, 384, 384, 384], out_channels=256, num_outs=5),
    ],
)
