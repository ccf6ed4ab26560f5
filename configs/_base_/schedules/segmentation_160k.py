# Fine-tuning for segmentation as BEiT and MAE do it: AdamW, each layer's learning rate 0.65 times that of the next one,
# 1,500 steps of warm-up, then linear decay until step 160,000.
max_iters = 160000
warmup_iters = 1500

optim_wrapper = dict(
    type='AutocastOptimWrapper',  # bfloat16 where it is safe, on devices that compute in it
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.65, norm_decay_mult=0.0, bias_decay_mult=0.0),
    optimizer=dict(type='AdamW', lr=7e-4, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=warmup_iters),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=warmup_iters, end=max_iters),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
# `tools/train.py --auto-scale-lr` scales the learning rate linearly to the batch that is really used.
auto_scale_lr = dict(base_batch_size=16)
