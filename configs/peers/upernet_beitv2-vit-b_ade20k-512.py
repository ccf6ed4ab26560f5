# UPerNet on ADE20K from mmpretrain's BEiT v2: recipe and pyramid of RandSAC's, mmpretrain's own BEiTViT.
#
# Command:  bash tools/dist_train.sh configs/peers/upernet_beitv2-vit-b_ade20k-512.py 8
# Cost:     160,000 steps of 16 crops
# Expected: not run by us yet
# Ours:     each layer gets a copy of the table of relative positions, as in mmpretrain's fine-tuning. Tables are for
#           one image size, so smaller images are padded to a whole window.
_base_ = '../segmentation/upernet_vit-b_ade20k-512.py'

model = dict(
    data_preprocessor=dict(test_cfg=dict(_delete_=True, size=(512, 512))),
    backbone=dict(
        _delete_=True,
        type='mmpretrain.BEiTViT',
        arch='base',
        img_size=512,
        patch_size=16,
        out_indices=(3, 5, 7, 11),
        out_type='featmap',
        drop_path_rate=0.1,
        init_cfg=dict(
            type='StrictPretrained', checkpoint='checkpoints/beitv2_beit-base-p16.pth', allow_unexpected=('mask_token',)
        ),
    ),
)
