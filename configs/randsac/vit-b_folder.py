# Your own unlabelled images: ViT-B with blob segments at 224 px, recipe of the paper's ImageNet-1K runs (D.2).
#
# Command:  python tools/train.py configs/randsac/vit-b_folder.py \
#               --cfg-options train_dataloader.dataset.data_root=/my/photos --auto-scale-lr
# Cost:     29.2 G multiply-adds an image, thrice that with backward
# Expected: a falling loss; what the features are worth depends on the images
# Note:     blobs fit any image size. 800 epochs suit some 100,000 images: fewer images, more epochs.
_base_ = [
    '../_base_/models/randsac_vit-b.py',
    '../_base_/datasets/folder.py',
    '../_base_/compiled_runtime.py',
]

model = dict(
    backbone=dict(img_size=224),
    data_preprocessor=dict(
        serialization=dict(partition=dict(_delete_=True, type='BlobPartition', hierarchy=(16, 4))),
    ),
)

base_lr = 2e-4  # for 256 images
batch_size = 256  # images in a step, over all devices; keep it in line with the data loader
max_epochs = 800
warmup_epochs = 40

optim_wrapper = dict(
    type='AutocastOptimWrapper',  # bfloat16 where it is safe, on any device
    optimizer=dict(type='AdamW', lr=base_lr * batch_size / 256, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    # No decay for what is not a matrix: norms, biases (positions are fixed anyway).
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
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
