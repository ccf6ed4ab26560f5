# Tables 1 to 6 and 9, linear probe on CIFAR-10 of the ViT-T of the ablations (D.3).
#
# Command:  python tools/train.py configs/linear_probe/linear_probe_vit-t_cifar10.py --cfg-options \
#               model.backbone.init_cfg.checkpoint=work_dirs/vit-t_cifar10/epoch_800.pth
# Cost:     90 epochs x 50 k images at 359 M multiply-adds, forward only. In short, at the full learning rate but with
#           512 images in a step: --epochs 10 and, among the options, optim_wrapper.accumulative_counts=1
# Expected: paper: 82.46 % (Table 6, square 16 -> 4); not run by us yet
# Ours:     crops of 20 to 100 % and flips, as in pre-training; the first weights (normal, 0.01). The rest is the
#           paper's; its 16,384 images in a step are 32 batches, so that any machine has the memory.
_base_ = [
    '../_base_/models/linear-probe_vit-t_32px.py',
    '../_base_/datasets/cifar10_labelled.py',
    '../_base_/schedules/linear-probe_90e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(init_cfg=dict(type='StrictPretrained', checkpoint='work_dirs/vit-t_cifar10/epoch_800.pth')),
    data_preprocessor=dict(augment={{_base_.augment}}),
)

# LARS does not follow the linear rule down to small batches: 512 images at 0.1 * 512 / 256 end far from the minimum.
optim_wrapper = dict(accumulative_counts=32)
# What --auto-scale-lr compares the loader's batch with; the number of batches in a step stays.
auto_scale_lr = dict(base_batch_size=512)
