# No table of the paper: Mask R-CNN with the ViT-S pre-trained on ImageNet-100; 100 epochs of COCO, large-scale jitter.
#
# Command:  bash tools/dist_train.sh configs/detection/mask-rcnn_vit-s_fpn_lsj-100e_coco.py 8
# Cost:     100 epochs x 117 k images of 1024 x 1024 px
# Expected: not run by us yet, and the paper has no such row
_base_ = './mask-rcnn_vit-b_fpn_lsj-100e_coco.py'

norm_cfg = dict(type='SyncBN', requires_grad=True)
train_dataloader = dict(batch_size=8)  # 8 GPUs x 8 = 64 images
model = dict(
    backbone=dict(arch='deit-small', init_cfg=dict(checkpoint='work_dirs/vit-s_in100/epoch_800.pth')),
    neck=[
        dict(type='ViTPyramid', embed_dims=384, patch_size=16, norm_cfg=norm_cfg),
        dict(type='FPN', in_channels=[384, 384, 384, 384], out_channels=256, num_outs=5),
    ],
)
