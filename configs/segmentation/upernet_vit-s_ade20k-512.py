# UPerNet on a ViT-S (6 heads of 64 dims) pre-trained on ImageNet-100; no table of the paper.
#
# Command:  bash tools/dist_train.sh configs/segmentation/upernet_vit-s_ade20k-512.py 8
# Cost:     160,000 steps of 16 crops, 250 G multiply-adds each, thrice that with backward
# Expected: not run by us yet, and the paper has no such row
_base_ = './upernet_vit-b_ade20k-512.py'

model = dict(
    backbone=dict(arch='deit-small', init_cfg=dict(checkpoint='work_dirs/vit-s_in100/epoch_800.pth')),
    neck=dict(embed_dims=384),
    decode_head=dict(in_channels=[384] * 4, channels=512),
    auxiliary_head=dict(in_channels=384),
)
