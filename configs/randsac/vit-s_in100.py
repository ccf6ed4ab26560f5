# Table 10, row "Transformer-skip" on ImageNet-100: ViT-S, blobs in a hierarchy, 224 px (C.1.2).
#
# Command:  bash tools/dist_train.sh configs/randsac/vit-s_in100.py 8
# Cost:     800 epochs x 127 k images at 6.2 G multiply-adds, thrice that with backward
# Expected: paper: linear probe 70.7 %, fine-tuning 87.3 %; this row has not been run by us yet
# Open:     the hierarchy's numbers are lost in the published text; 16 -> 4 is the better one of Table 6.
_base_ = [
    '../_base_/models/randsac_vit-s.py',
    '../_base_/datasets/imagenet100_224.py',
    '../_base_/schedules/imagenet_800e.py',
    '../_base_/compiled_runtime.py',
]

model = dict(
    data_preprocessor=dict(serialization=dict(partition=dict(_delete_=True, type='BlobPartition', hierarchy=(16, 4))))
)
base_lr = 1.5e-4  # for 256 images
optim_wrapper = dict(optimizer=dict(lr=base_lr * 4096 / 256))
default_hooks = dict(checkpoint=dict(interval=10))
