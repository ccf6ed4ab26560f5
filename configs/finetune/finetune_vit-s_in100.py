# Table 10, fine-tuning of the ViT-S pre-trained on ImageNet-100, 224 px (D.3).
#
# Command:  bash tools/dist_train.sh configs/finetune/finetune_vit-s_in100.py 8 --cfg-options \
#               model.backbone.init_cfg.checkpoint=work_dirs/vit-s_in100/epoch_800.pth
# Cost:     100 epochs x 127 k images at 4.6 G multiply-adds, thrice that with backward
# Expected: paper: 87.3 % (with skip connections); not run by us yet
# Ours:     as finetune_vit-b_in1k.py
_base_ = './finetune_vit-b_in1k.py'

model = dict(
    backbone=dict(arch='deit-small', init_cfg=dict(checkpoint='work_dirs/vit-s_in100/epoch_800.pth')),
    head=dict(num_classes=100, in_channels=384),
    data_preprocessor=dict(num_classes=100),
)
# Not type='ImageNet', which insists on 1,000 classes.
train_dataloader = dict(dataset=dict(type='CustomDataset', data_root='data/imagenet100'))
val_dataloader = dict(dataset=dict(type='CustomDataset', data_root='data/imagenet100'))
test_dataloader = val_dataloader
