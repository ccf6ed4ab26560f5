# Table 7, row "RandSAC square, 16 -> 4" on CIFAR-100: ViT-S, 1,600 epochs (D.1).
#
# Command:  python tools/train.py configs/randsac/vit-s_cifar100.py
# Cost:     1,600 epochs x 50 k images at 2194 M multiply-adds, thrice that with backward
# Expected: paper: linear probe 69.7 %, fine-tuning 81.5 %; this row has not been run by us yet
_base_ = './vit-s_cifar10.py'

train_dataloader = dict(dataset=dict(dataset=dict(type='CIFAR100', data_root='data/cifar100')))
