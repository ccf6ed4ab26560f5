# Table 10, row "Transformer-skip" on CIFAR-10: ViT-T, blobs in a hierarchy, normalised pixels (C.1.1).
#
# Command:  python tools/train.py configs/randsac/vit-t_skip_cifar10.py
# Cost:     1,600 epochs x 50 k images at 435 M multiply-adds, thrice that with backward
# Expected: paper: linear probe 89.5 %, fine-tuning 94.4 %; this row has not been run by us yet
# Open:     the hierarchy's numbers are lost in the published text; 11 -> 5 as in the low-data runs.
_base_ = [
    '../_base_/models/randsac_vit-t_32px.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/low-data_1600e.py',
    '../_base_/compiled_runtime.py',
]

model = dict(
    data_preprocessor=dict(
        augment={{_base_.augment}},
        serialization=dict(partition=dict(_delete_=True, type='BlobPartition', hierarchy=(11, 5))),
    )
)
default_hooks = dict(checkpoint=dict(interval=20))
