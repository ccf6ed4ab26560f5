# CIFAR-10 at 28 px, 7 x 7 tokens, to measure what features are worth at other sizes than that of the pre-training.
#
# Command:  OMP_NUM_THREADS=1 python tools/train.py configs/smoke/randsac_vit_28px_cifar10.py
#           python tools/evaluate.py configs/smoke/randsac_vit_28px_cifar10.py CHECKPOINT \
#               --cfg-options model.backbone.img_size=56 model.backbone.positions=stretched
# Cost:     8 epochs x 50 k images at 8 M multiply-adds, thrice that with backward
# Expected: docs/results/README.md, "Other sizes"
_base_ = './randsac_vit_cifar10.py'

size = 28
model = dict(
    backbone=dict(arch=dict(embed_dims=48, feedforward_channels=192), img_size=size),
    neck=dict(embed_dims=48),
    data_preprocessor=dict(
        augment=[
            dict(
                type='BatchRandomResizedCrop',
                scale=size,
                crop_ratio_range=(0.2, 1.0),
                interpolation='bicubic',
                flip_prob=0.5,
            )
        ],
        # 7 x 7 tokens make no squares
        serialization=dict(partition=dict(_delete_=True, type='BlobPartition', hierarchy=(11, 5))),
    ),
)
custom_hooks = []
