# Fine-tuning of the small ViT of randsac_vit_cifar10.py on a CPU core, by the recipe of the paper but for length and batch.
#
# Command:  python tools/train.py configs/smoke/finetune_vit_cifar10.py --epochs 4
# Cost:     4 epochs x 50 k images at 15 M multiply-adds, thrice that with backward: ten minutes
# Expected: see README.md, "What was learned"
# Ours:     128 images in a step; the learning rate follows the linear rule from the paper's 1,024
_base_ = '../finetune/finetune_vit-t_cifar10.py'

model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=64, num_layers=4, num_heads=2, feedforward_channels=256),
        init_cfg=dict(checkpoint='work_dirs/randsac_vit_cifar10/epoch_8.pth'),
    ),
    head=dict(in_channels=64),
)
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(optimizer=dict(lr=5e-4 * 128 / 256))
auto_scale_lr = dict(base_batch_size=128)
