# Your own unlabelled images: ViT-B with blob segments at 224 px, recipe of the paper's ImageNet-1K runs (D.2).
#
# Command:  python tools/train.py configs/randsac/vit-b_folder.py \
#               --cfg-options train_dataloader.dataset.data_root=/my/photos --auto-scale-lr
# Cost:     27.2 G multiply-adds an image, thrice that with backward
# Expected: a falling loss; what the features are worth depends on the images
# Note:     blobs fit any image size. 800 epochs suit some 100,000 images: fewer images, more epochs.
_base_ = [
    '../_base_/models/randsac_vit-b.py',
    '../_base_/datasets/folder.py',
    '../_base_/schedules/imagenet_800e.py',
    '../_base_/compiled_runtime.py',
]

model = dict(
    backbone=dict(img_size=224),
    data_preprocessor=dict(serialization=dict(partition=dict(_delete_=True, type='BlobPartition', hierarchy=(16, 4)))),
)
base_lr = 2e-4
batch_size = 256  # images in a step, over all devices; keep it in line with the data loader
optim_wrapper = dict(optimizer=dict(lr=base_lr * batch_size / 256))
auto_scale_lr = dict(base_batch_size=batch_size)
