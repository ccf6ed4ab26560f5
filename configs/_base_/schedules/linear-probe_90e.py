# The paper's linear probe (D.3): LARS without weight decay, cosine decay, 10 of 90 epochs of warm-up.
base_lr = 0.1  # for 256 images
batch_size = 16384  # images in a step, over all devices; keep it in line with the data loader
max_epochs = 90
warmup_epochs = 10

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    modules=['backbone'],  # computes in bfloat16 where the device does; averages, batch norm, classifier: float32
    optimizer=dict(type='LARS', lr=base_lr * batch_size / 256, momentum=0.9, weight_decay=0.0),
    # Biases start at zero and have no norm to go by.
    paramwise_cfg=dict(custom_keys=dict(bias=dict(decay_mult=0.0, lars_exclude=True))),
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
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=10)
# `tools/train.py --auto-scale-lr` scales the learning rate linearly to the batch that is really used.
auto_scale_lr = dict(base_batch_size=batch_size)
