# The run whose first epoch left tiny_digits.pth, at commit c27f058.
_base_ = '../../configs/randsac/vit_digits.py'

model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=12, num_layers=2, num_heads=2, feedforward_channels=24)),
    neck=dict(num_layers=1, embed_dims=12, num_heads=2, encoder_dims=12, encoder_layers=2, feedforward_channels=24),
    head=dict(embed_dims=12),
)
train_dataloader = dict(batch_size=256)
train_cfg = dict(max_epochs=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=1, by_epoch=True, begin=1, end=2, convert_to_iter_based=True),
]
