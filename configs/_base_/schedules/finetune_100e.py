# The paper's fine-tuning (D.3): AdamW, each layer's learning rate 0.65 times that of the next one, cosine decay, 5 of
# 100 epochs of warm-up. The betas' symbols are lost; the row cites what the pre-training with (0.9, 0.95) cites.
base_lr = 5e-4  # for 256 images
batch_size = 1024  # images in a step, over all devices; keep it in line with the data loader
max_epochs = 100
warmup_epochs = 5

optim_wrapper = dict(
    type='AutocastOptimWrapper',  # bfloat16 where it is safe, on devices that compute in it
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.65, norm_decay_mult=0.0, bias_decay_mult=0.0),
    optimizer=dict(type='AdamW', lr=base_lr * batch_size / 256, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
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
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=5)
# `tools/train.py --auto-scale-lr` scales the learning rate linearly to the batch that is really used.
auto_scale_lr = dict(base_batch_size=batch_size)
