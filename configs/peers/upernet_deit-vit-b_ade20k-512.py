# UPerNet on ADE20K from mmpretrain's DeiT, as upernet_mae-vit-b_ade20k-512.py.
#
# Command:  bash tools/dist_train.sh configs/peers/upernet_deit-vit-b_ade20k-512.py 8
# Cost:     160,000 steps of 16 crops
# Expected: not run by us yet
_base_ = './upernet_mae-vit-b_ade20k-512.py'

model = dict(backbone=dict(init_cfg=dict(checkpoint='checkpoints/deit-base.pth')))
