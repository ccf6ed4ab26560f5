# Table 10, linear probe of the ViT-S pre-trained on ImageNet-100, 224 px (D.3).
#
# Command:  bash tools/dist_train.sh configs/linear_probe/linear_probe_vit-s_in100.py 8 --cfg-options \
#               model.backbone.init_cfg.checkpoint=work_dirs/vit-s_in100/epoch_800.pth
# Cost:     90 epochs x 127 k images at 4.6 G multiply-adds, forward only
# Expected: paper: 70.7 % (with skip connections); not run by us yet
# Ours:     crops of 8 to 100 % of the image and flips; the first weights (normal, 0.01). The rest is the paper's.
_base_ = './linear_probe_vit-b_in1k.py'

model = dict(
    backbone=dict(arch='deit-small', init_cfg=dict(checkpoint='work_dirs/vit-s_in100/epoch_800.pth')),
    neck=[dict(type='GlobalAveragePooling'), dict(type='ClsBatchNormNeck', input_features=384, affine=False, eps=1e-6)],
    head=dict(num_classes=100, in_channels=384),
    data_preprocessor=dict(num_classes=100),
)
# Not type='ImageNet', which insists on 1,000 classes.
train_dataloader = dict(dataset=dict(type='CustomDataset', data_root='data/imagenet100'))
val_dataloader = dict(dataset=dict(type='CustomDataset', data_root='data/imagenet100'))
test_dataloader = val_dataloader
