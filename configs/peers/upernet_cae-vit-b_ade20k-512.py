# UPerNet on ADE20K from mmpretrain's CAE: recipe and pyramid of RandSAC's, mmpretrain's own BEiTViT.
#
# Command:  bash tools/dist_train.sh configs/peers/upernet_cae-vit-b_ade20k-512.py 8
# Cost:     160,000 steps of 16 crops
# Expected: not run by us yet
# Ours:     no table of relative positions, as in pre-training; mmpretrain's fine-tuning adds one, from zero.
_base_ = '../segmentation/upernet_vit-b_ade20k-512.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.BEiTViT',
        arch='base',
        img_size=512,
        patch_size=16,
        out_indices=(3, 5, 7, 11),
        out_type='featmap',
        drop_path_rate=0.1,
        use_abs_pos_emb=True,
        use_rel_pos_bias=False,
        final_norm=True,
        init_cfg=dict(type='StrictPretrained', checkpoint='checkpoints/cae_beit-base-p16.pth'),
    )
)
