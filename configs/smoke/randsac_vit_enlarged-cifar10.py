# Pre-trains the small ViT of the transfer smoke configs on CIFAR-10, enlarged to 64 px so that patches of 8 px fit.
#
# Command:  python tools/train.py configs/smoke/randsac_vit_enlarged-cifar10.py
# Cost:     781 steps of 64 images; took 13 minutes of one thread on a crowded machine
# Expected: loss 0.51 at the end; see docs/results for what it is worth
_base_ = ['./randsac_vit_photos.py']

model = dict(backbone=dict(img_size=64))
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='PreparedCIFAR10',
        data_root='data/cifar10',
        split='train',
        pipeline=[
            dict(
                type='RandomResizedCrop',
                scale=64,
                crop_ratio_range=(0.2, 1.0),
                backend='pillow',
                interpolation='bicubic',
            ),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackInputs'),
        ],
    )
)
max_epochs = 1
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, begin=0, end=max_epochs, convert_to_iter_based=True
    ),
]
train_cfg = dict(max_epochs=max_epochs)
