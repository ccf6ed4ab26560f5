# Table 8, linear probe of the ViT-B pre-trained on ImageNet-1K, 224 px (D.3).
#
# Command:  bash tools/dist_train.sh configs/linear_probe/linear_probe_vit-b_in1k.py 8 --cfg-options \
#               model.backbone.init_cfg.checkpoint=work_dirs/vit-b_in1k/epoch_1600.pth
# Cost:     90 epochs x 1.28 M images at 17.5 G multiply-adds, forward only
# Expected: paper: 68.9 % (16 -> 4), 72.3 % (K = 9); not run by us yet
# Ours:     crops of 8 to 100 % of the image and flips; the first weights (normal, 0.01). The rest is the paper's.
_base_ = [
    '../_base_/models/linear-probe_vit-b.py',
    '../_base_/datasets/imagenet_224_labelled.py',
    '../_base_/schedules/linear-probe_90e.py',
    '../_base_/classification_runtime.py',
]

model = dict(backbone=dict(init_cfg=dict(type='StrictPretrained', checkpoint='work_dirs/vit-b_in1k/epoch_1600.pth')))
