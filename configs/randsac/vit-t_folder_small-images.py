# Your own small images, 500 to 50,000 of 28 to 64 px: ViT-T with square segments at 32 px, as on CIFAR-10 (C.1.1).
#
# Command:  python tools/train.py configs/randsac/vit-t_folder_small-images.py \
#               --cfg-options train_dataloader.dataset.data_root=/my/photos --auto-scale-lr
# Cost:     451 M multiply-adds an image, thrice that with backward
# Expected: a falling loss; what the features are worth depends on the images
# Note:     for 64 px set 64 in the model and in the pipeline; larger images need vit-s_folder.py.
_base_ = [
    '../_base_/models/randsac_vit-t_32px.py',
    '../_base_/datasets/folder.py',
    '../_base_/schedules/low-data_800e.py',
    '../_base_/compiled_runtime.py',
]

train_pipeline = [
    dict(type='LoadImageStrict'),
    dict(type='RandomResizedCrop', scale=32, crop_ratio_range=(0.2, 1.0), backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
batch_size = 64  # images in a step, over all devices; keep it in line with the data loader
model = dict(data_preprocessor=dict(to_rgb=True))  # files are read as BGR
train_dataloader = dict(batch_size=batch_size, dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=1e-3 * batch_size / 256))
auto_scale_lr = dict(base_batch_size=batch_size)
default_hooks = dict(checkpoint=dict(interval=20))
