# Table 7, row "RandSAC blob, 11 -> 5" on CIFAR-100: ViT-S, 1,600 epochs (D.1).
#
# Command:  python tools/train.py configs/randsac/vit-s_blob_cifar100.py
# Cost:     1,600 epochs x 50 k images at 2118 M multiply-adds, thrice that with backward
# Expected: paper: linear probe 67.9 %, fine-tuning 79.6 %; this row has not been run by us yet
_base_ = './vit-s_blob_cifar10.py'

train_dataloader = dict(dataset=dict(dataset=dict(type='CIFAR100', data_root='data/cifar100')))
