# Table 7, row "RandSAC blob, 11 -> 5" on CIFAR-10: ViT-S, 1,600 epochs (D.1).
#
# Command:  python tools/train.py configs/randsac/vit-s_blob_cifar10.py
# Cost:     1,600 epochs x 50 k images at 2118 M multiply-adds, thrice that with backward
# Expected: paper: linear probe 93.9 %, fine-tuning 96.9 %; this row has not been run by us yet
_base_ = './vit-s_cifar10.py'

model = dict(
    data_preprocessor=dict(serialization=dict(partition=dict(_delete_=True, type='BlobPartition', hierarchy=(11, 5))))
)
