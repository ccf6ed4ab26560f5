# Linear probe of the small ViT of randsac_vit_cifar10.py on one core of a CPU; the paper's recipe but for the batch.
#
# Command:  python tools/train.py configs/smoke/linear_probe_vit_cifar10.py --epochs 10
# Cost:     10 epochs x 50 k images at 15 M multiply-adds, forward only: minutes
# Expected: see docs/results
# Ours:     512 images in a step at the rate of 16,384, which suits a short run (configs/linear_probe/README.md)
_base_ = '../linear_probe/linear_probe_vit-t_cifar10.py'

model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=64, num_layers=4, num_heads=2, feedforward_channels=256),
        frozen_stages=4,
        init_cfg=dict(checkpoint='work_dirs/randsac_vit_cifar10/epoch_8.pth'),
    ),
    neck=[dict(type='GlobalAveragePooling'), dict(type='ClsBatchNormNeck', input_features=64, affine=False, eps=1e-6)],
    head=dict(in_channels=64),
)
optim_wrapper = dict(accumulative_counts=1)
