# Mask R-CNN on COCO from mmpretrain's DeiT, as mask-rcnn_mae-vit-b_fpn_coco.py.
#
# Command:  bash tools/dist_train.sh configs/peers/mask-rcnn_deit-vit-b_fpn_coco.py 8
# Cost:     12 epochs x 117 k images
# Expected: not run by us yet
_base_ = './mask-rcnn_mae-vit-b_fpn_coco.py'

model = dict(backbone=dict(init_cfg=dict(checkpoint='checkpoints/deit-base.pth')))
