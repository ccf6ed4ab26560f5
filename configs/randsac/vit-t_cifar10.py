# Table 6, row "square 16 -> 4" on CIFAR-10: ViT-T, masked transformer without skip connections (C.1.1).
#
# Command:  python tools/train.py configs/randsac/vit-t_cifar10.py
# Cost:     800 epochs x 50 k images at 451 M multiply-adds, thrice that with backward
# Expected: paper: linear probe 82.46 %, fine-tuning 91.66 %; this row has not been run by us yet
_base_ = [
    '../_base_/models/randsac_vit-t_32px.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/low-data_800e.py',
    '../_base_/compiled_runtime.py',
]

model = dict(neck=dict(skip=False), head=dict(norm_pix=False), data_preprocessor=dict(augment={{_base_.augment}}))
default_hooks = dict(checkpoint=dict(interval=20))
