# Tables 1 to 6 and 9, fine-tuning on CIFAR-10 of the ViT-T of the ablations (D.3).
#
# Command:  python tools/train.py configs/finetune/finetune_vit-t_cifar10.py --cfg-options \
#               model.backbone.init_cfg.checkpoint=work_dirs/vit-t_cifar10/epoch_800.pth
# Cost:     100 epochs x 50 k images at 359 M multiply-adds, thrice that with backward. A CPU:
#           --epochs 5 --auto-scale-lr and, among the options, train_dataloader.batch_size=128
# Expected: paper: 91.66 % (Table 6, square 16 -> 4); not run by us yet
# Ours:     crops of 20 to 100 % and flips, as in pre-training; betas (see _base_/schedules/finetune_100e.py); no decay
#           for norms and biases; the classifier's first weights (normal, 2e-5). The rest is the paper's.
_base_ = [
    '../_base_/models/finetune_vit-t_32px.py',
    '../_base_/datasets/cifar10_randaug.py',
    '../_base_/schedules/finetune_100e.py',
    '../_base_/classification_runtime.py',
]

model = dict(backbone=dict(init_cfg=dict(type='StrictPretrained', checkpoint='work_dirs/vit-t_cifar10/epoch_800.pth')))
