# Squares and skip connections on the digits: seconds on a CPU.
#
# Command:  python tools/train.py configs/smoke/randsac_vit_digits.py
# Cost:     a few seconds
# Expected: it runs; 10 steps teach nothing
_base_ = '../randsac/vit_digits.py'

train_dataloader = dict(batch_size=256)

max_epochs = 2
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=1, by_epoch=True, begin=1, end=max_epochs, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1, max_keep_ckpts=2))
