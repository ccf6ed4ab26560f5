# UPerNet on ADE20K from mmpretrain's DINOv2, as upernet_mae-vit-b_ade20k-512.py, with patches of 14 px.
#
# Command:  bash tools/dist_train.sh configs/peers/upernet_dinov2-vit-b_ade20k-518.py 8
# Cost:     160,000 steps of 16 crops
# Expected: not run by us yet
# Ours:     crops and windows of 518 px, whose 37 x 37 patches have the positions of pre-training.
_base_ = './upernet_mae-vit-b_ade20k-512.py'

crop_size = (518, 518)
model = dict(
    data_preprocessor=dict(size=crop_size, test_cfg=dict(size_divisor=14)),
    backbone=dict(
        img_size=518,
        patch_size=14,
        layer_scale_init_value=1e-5,
        init_cfg=dict(checkpoint='checkpoints/vit-base-p14_dinov2.pth', allow_unexpected=('mask_token',)),
    ),
    neck=dict(patch_size=14),
    test_cfg=dict(crop_size=crop_size, stride=(345, 345)),
)
train_pipeline = _base_.train_pipeline
train_pipeline[3].crop_size = crop_size  # RandomCrop
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
