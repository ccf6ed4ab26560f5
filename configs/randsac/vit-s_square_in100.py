# Table 6, row "square 16 -> 4" on ImageNet-100: ViT-S, squares in a hierarchy (C.1.2), with skip connections.
#
# Command:  bash tools/dist_train.sh configs/randsac/vit-s_square_in100.py 8
# Cost:     800 epochs x 127 k images at 4503 M multiply-adds, thrice that with backward
# Expected: paper, without skips: linear probe 65.81 %, fine-tuning 85.55 %; this row has not been run by us yet
# Open:     14 x 14 tokens (224 px) cannot be cut in 16 squares, so 192 px as the paper's ImageNet-1K runs: 12 x 12.
_base_ = [
    '../_base_/models/randsac_vit-s.py',
    '../_base_/datasets/imagenet_192.py',
    '../_base_/schedules/imagenet_800e.py',
    '../_base_/compiled_runtime.py',
]

model = dict(backbone=dict(img_size=192))
train_dataloader = dict(dataset=dict(data_root='data/imagenet100'))
base_lr = 1.5e-4  # for 256 images
optim_wrapper = dict(optimizer=dict(lr=base_lr * 4096 / 256))
default_hooks = dict(checkpoint=dict(interval=10))
