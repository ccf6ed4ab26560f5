# The quick start: a small ViT on scikit-learn's handwritten digits, squares in a hierarchy. No table of the paper.
#
# Command:  python tools/train.py configs/randsac/vit_digits.py  (and all of the quick start: bash tools/quickstart.sh)
# Cost:     under 3 minutes on 2 CPU cores
# Expected: see docs/results/README.md, `digits.json`
_base_ = ['../_base_/models/randsac_vit_8px.py', '../_base_/datasets/digits.py', '../_base_/default_runtime.py']

max_epochs = 100
warmup_epochs = 10

optim_wrapper = dict(
    # float32: matrices this small gain nothing from bfloat16
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={'neck.skip.weight': dict(decay_mult=0.0)}
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=warmup_epochs, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=0.0,
        T_max=max_epochs - warmup_epochs,
        by_epoch=True,
        begin=warmup_epochs,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs)
default_hooks = dict(logger=dict(interval=22), checkpoint=dict(interval=20, max_keep_ckpts=2))
auto_scale_lr = dict(base_batch_size=64)
