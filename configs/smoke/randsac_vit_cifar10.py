# CIFAR-10 on one core of a CPU within the hour, with an online probe: a small ViT, squares in a hierarchy, skips.
# Evaluation, fine-tuning, export and the page of a run can be tried on its checkpoint (README.md).
#
# Command:  OMP_NUM_THREADS=1 python tools/train.py configs/smoke/randsac_vit_cifar10.py
# Cost:     8 epochs x 50 k images at 19 M multiply-adds, thrice that with backward; took
#           36 minutes on a crowded machine
# Expected: a probe that rises from 30 to 43 % (kNN); see docs/results
_base_ = [
    '../_base_/models/randsac_vit-t_32px.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/low-data_1600e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=64, num_layers=4, num_heads=2, feedforward_channels=256)),
    neck=dict(num_layers=1, embed_dims=64, num_heads=2),
    data_preprocessor=dict(augment={{_base_.augment}}),
)
base_lr = 6e-3  # for 256 images
batch_size = 128
max_epochs = 8
warmup_epochs = 1
train_dataloader = dict(batch_size=batch_size)
optim_wrapper = dict(optimizer=dict(lr=base_lr * batch_size / 256, betas=(0.9, 0.95)))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=warmup_epochs, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=0.0,
        T_max=max_epochs - warmup_epochs,
        by_epoch=True,
        begin=warmup_epochs,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=batch_size)
custom_hooks = [
    dict(
        type='OnlineProbeHook',
        train=dict(type='PreparedCIFAR10', data_root='data/cifar10', split='train'),
        test=dict(type='PreparedCIFAR10', data_root='data/cifar10', split='test'),
        interval=1,  # epochs
        max_train=5000,
        max_test=2000,
    )
]
