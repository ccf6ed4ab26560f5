# Your own unlabelled images, 500 to 50,000 of any size: ViT-S with blob segments at 224 px, as on ImageNet-100 (C.1.2).
#
# Command:  python tools/train.py configs/randsac/vit-s_folder.py \
#               --cfg-options train_dataloader.dataset.data_root=/my/photos --auto-scale-lr
# Cost:     6.2 G multiply-adds an image, thrice that with backward
# Expected: a falling loss; what the features are worth depends on the images
# Note:     800 epochs suit some 10,000 images and more; with fewer, use more epochs (--epochs 1600).
_base_ = [
    '../_base_/models/randsac_vit-s.py',
    '../_base_/datasets/folder.py',
    '../_base_/schedules/imagenet_800e.py',
    '../_base_/compiled_runtime.py',
]

model = dict(
    data_preprocessor=dict(serialization=dict(partition=dict(_delete_=True, type='BlobPartition', hierarchy=(16, 4))))
)
base_lr = 1.5e-4  # for 256 images
batch_size = 64  # images in a step, over all devices; keep it in line with the data loader
train_dataloader = dict(batch_size=batch_size)
optim_wrapper = dict(optimizer=dict(lr=base_lr * batch_size / 256))
auto_scale_lr = dict(base_batch_size=batch_size)
default_hooks = dict(checkpoint=dict(interval=20))
