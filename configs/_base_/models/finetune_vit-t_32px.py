# The same on a ViT-T for CIFAR-10 at 32 px.
_base_ = './finetune_vit-b.py'

model = dict(
    backbone=dict(arch='deit-tiny', img_size=32, patch_size=4),
    head=dict(num_classes=10, in_channels=192),
    data_preprocessor=dict(
        num_classes=10, mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255], to_rgb=False
    ),
)
