# Table 12, ADE20K: UPerNet on the ViT-B pre-trained on ImageNet-1K, crops of 512 px, windows of 512 every 341 px.
# Learning rate and layer decay are BEiT's for checkpoints that saw no labels; the paper's own values are lost.
#
# Command:  bash tools/dist_train.sh configs/segmentation/upernet_vit-b_ade20k-512.py 8
# Cost:     160,000 steps of 16 crops, 607 G multiply-adds each, thrice that with backward
# Expected: paper: 0.8 to 1.5 mIoU above DeiT, MoCo, DINO and BEiT; its value is lost, probably 48.0; not run by us
_base_ = [
    '../_base_/models/upernet_vit-b.py',
    '../_base_/datasets/ade20k_512.py',
    '../_base_/schedules/segmentation_160k.py',
    '../_base_/segmentation_runtime.py',
]

model = dict(backbone=dict(init_cfg=dict(type='StrictPretrained', checkpoint='work_dirs/vit-b_in1k/epoch_1600.pth')))
