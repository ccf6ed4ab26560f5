# Supervised training from scratch beside RandSAC on CIFAR-10: ViT-T, same data, crops, optimiser and epochs.
#
# Command:  python tools/train.py configs/peers/supervised_vit-t_cifar10.py
# Cost:     1,600 epochs x 50 k images
# Expected: no row of the paper; the encoder of Table 10
# Ours:     label smoothing 0.1 and drop path 0.1, as in fine-tuning (D.3).
_base_ = [
    '../_base_/models/supervised_vit-t_32px.py',
    '../_base_/datasets/cifar10_labelled.py',
    '../_base_/schedules/low-data_1600e.py',
    '../_base_/classification_runtime.py',
]

model = dict(data_preprocessor=dict(augment={{_base_.augment}}))
train_cfg = dict(val_interval=20)
default_hooks = dict(checkpoint=dict(interval=20))
