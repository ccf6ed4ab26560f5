# The "1x" schedule of 12 epochs, 16 images in a step.
batch_size = 16  # images in a step, over all devices; keep it in line with the data loader
max_epochs = 12
# bfloat16 in the parts that compute, on devices that have it; between them mmcv's RoIAlign and non-maximum
# suppression, which know no bfloat16.
bfloat16 = ['backbone', 'neck', 'rpn_head', 'roi_head.bbox_head', 'roi_head.mask_head']

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    modules=bfloat16,
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.75, norm_decay_mult=0.0, bias_decay_mult=0.0),
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, milestones=[8, 11], gamma=0.1),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
# `tools/train.py --auto-scale-lr` scales the learning rate linearly to the batch that is really used.
auto_scale_lr = dict(base_batch_size=batch_size)
