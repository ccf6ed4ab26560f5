# UPerNet on ADE20K from mmpretrain's DeiT-3, as upernet_mae-vit-b_ade20k-512.py.
#
# Command:  bash tools/dist_train.sh configs/peers/upernet_deit3-vit-b_ade20k-512.py 8
# Cost:     160,000 steps of 16 crops
# Expected: not run by us yet
# Ours:     VisionTransformer with layer scale; mmpretrain's DeiT3 uses the first norm of each layer twice.
_base_ = './upernet_mae-vit-b_ade20k-512.py'

model = dict(
    backbone=dict(layer_scale_init_value=1e-6, init_cfg=dict(checkpoint='checkpoints/deit3-base-p16.pth')),
)
