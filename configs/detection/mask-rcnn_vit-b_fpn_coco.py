# Table 13: Mask R-CNN on COCO with a ViT-B that RandSAC has pre-trained; 1x schedule at 1333 x 800 px (B.2).
#
# Command:  bash tools/dist_train.sh configs/detection/mask-rcnn_vit-b_fpn_coco.py 8
# Cost:     12 epochs x 117 k images
# Expected: paper: 50.9 box AP, 45.0 mask AP, with a schedule it does not name; this file has not been run by us yet
#
# From the paper: blocks 3, 6, 9 and 12, up- and down-sampled by convolutions to strides 4, 8, 16 and 32, FPN. Pooling
# at stride 32 follows MAE. Our choice, because nothing is stated: 12 epochs, lr 1e-4, weight decay 0.05, layer decay
# 0.75, drop path 0.1, bfloat16. README.md beside this file says what to change for other data, memory and backbones.
_base_ = [
    '../_base_/models/mask-rcnn_vit-b_fpn.py',
    '../_base_/datasets/coco_1333x800.py',
    '../_base_/schedules/detection_12e.py',
    '../_base_/detection_runtime.py',
]

model = dict(backbone=dict(init_cfg=dict(type='StrictPretrained', checkpoint='work_dirs/vit-b_in1k/epoch_1600.pth')))
