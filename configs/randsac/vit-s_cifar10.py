# Table 7, row "RandSAC square, 16 -> 4" on CIFAR-10: ViT-S, 1,600 epochs (D.1).
#
# Command:  python tools/train.py configs/randsac/vit-s_cifar10.py
# Cost:     1,600 epochs x 50 k images at 2194 M multiply-adds, thrice that with backward
# Expected: paper: linear probe 92.1 %, fine-tuning 96.7 %; this row has not been run by us yet
_base_ = [
    '../_base_/models/randsac_vit-s_32px.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/low-data_1600e.py',
    '../_base_/compiled_runtime.py',
]

model = dict(data_preprocessor=dict(augment={{_base_.augment}}))
default_hooks = dict(checkpoint=dict(interval=20))
