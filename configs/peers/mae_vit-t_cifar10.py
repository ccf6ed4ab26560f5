# mmpretrain's MAE beside RandSAC on CIFAR-10: ViT-T, same data, crops, optimiser, epochs, decoder (D.1).
#
# Command:  python tools/train.py configs/peers/mae_vit-t_cifar10.py
# Cost:     1,600 epochs x 50 k images at 185 M multiply-adds, thrice that with backward
# Expected: no row of the paper; the encoder of Table 10
# Ours:     mmpretrain's encoder has a class token, which takes part in attention; evaluation averages the others.
_base_ = [
    '../_base_/models/mae_vit-t_32px.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/low-data_1600e.py',
    '../_base_/default_runtime.py',
]

model = dict(data_preprocessor=dict(augment={{_base_.augment}}))
default_hooks = dict(checkpoint=dict(interval=20))
