# Short fine-tuning of the small ViT of randsac_vit_cifar10.py on a CPU core.
#
# Command:  python tools/train.py configs/smoke/finetune_vit_cifar10.py
# Cost:     4 epochs x 50 k images at 15 M multiply-adds, thrice that with backward; took
#           18 minutes of one thread on a crowded machine
# Expected: see docs/results
# Ours:     the paper's recipe is made for 100 epochs. In 4, RandAug, mixup, cutmix and drop path only slow a small ViT
#           down, so crops and flips are all there is; 128 images in a step, and a learning rate of 2e-3.
_base_ = [
    '../_base_/models/finetune_vit-t_32px.py',
    '../_base_/datasets/cifar10_labelled.py',
    '../_base_/schedules/finetune_4e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=64, num_layers=4, num_heads=2, feedforward_channels=256),
        drop_path_rate=0.0,
        init_cfg=dict(type='StrictPretrained', checkpoint='work_dirs/randsac_vit_cifar10/epoch_8.pth'),
    ),
    head=dict(in_channels=64),
    data_preprocessor=dict(
        _delete_=True,
        type='BatchAugmentDataPreprocessor',
        mean=[125.307, 122.961, 113.8575],
        std=[51.5865, 50.847, 51.255],
        to_rgb=False,
        augment={{_base_.augment}},
    ),
    train_cfg=None,
)
train_dataloader = dict(batch_size=128)

optim_wrapper = dict(optimizer=dict(lr=2e-3))
train_cfg = dict(val_interval=1)
auto_scale_lr = dict(base_batch_size=128)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=2))
