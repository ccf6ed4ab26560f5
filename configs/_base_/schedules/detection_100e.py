# 100 epochs, 64 images in a step: the schedule with which plain ViTs are compared on large-scale jitter (ViTDet).
_base_ = './detection_12e.py'

batch_size = 64
max_epochs = 100

optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.7), optimizer=dict(weight_decay=0.1))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, milestones=[89, 96], gamma=0.1),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=10)
auto_scale_lr = dict(base_batch_size=batch_size)
