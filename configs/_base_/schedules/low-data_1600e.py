# The paper's schedule for low-data pre-training (D.1): AdamW, 1,600 epochs, 512 images in a step. Peers get it as well.
base_lr = 1e-3  # for 256 images
batch_size = 512  # images in a step, over all devices; keep it in line with the data loader
max_epochs = 1600
warmup_epochs = 10

optim_wrapper = dict(
    type='AutocastOptimWrapper',  # bfloat16 where it is safe, on devices that compute in it
    optimizer=dict(type='AdamW', lr=base_lr * batch_size / 256, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    # No decay for norms, biases and the weights of the skip connections, where a model has them.
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
# `tools/train.py --auto-scale-lr` scales the learning rate linearly to the batch that is really used.
auto_scale_lr = dict(base_batch_size=batch_size)
