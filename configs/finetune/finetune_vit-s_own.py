# Classification of your own images: 500 to 50,000 of any size in class folders, one GPU. Copy this file beside itself
# and change the lines under "Yours"; all that depends on them follows. docs/own_data.md says what may be in the folder.
#
# Command:  cp configs/finetune/finetune_vit-s_own.py configs/finetune/my_data.py
#           python tools/check_data.py configs/finetune/my_data.py --sheet pictures
#           python tools/train.py configs/finetune/my_data.py
# Cost:     100 epochs at 4.6 G multiply-adds an image, thrice that with backward
# Expected: depends on the data; the best checkpoint by accuracy is kept as best_accuracy_top1_*.pth
_base_ = './finetune_vit-b_in1k.py'

# Yours
data_root = 'data/own'  # with train/CLASS/IMAGE and val/CLASS/IMAGE
classes = ('first', 'second')  # the names of the folders
checkpoint = 'work_dirs/vit-s_folder/epoch_800.pth'  # of pre-training; None: random weights

batch_size = 64
model = dict(
    backbone=dict(arch='deit-small', init_cfg=checkpoint and dict(checkpoint=checkpoint)),
    head=dict(num_classes=len(classes), in_channels=384),
    data_preprocessor=dict(num_classes=len(classes)),
)
source = dict(_delete_=True, type='LabelledImageFolder', data_root=data_root, classes=classes)
train_dataloader = dict(
    batch_size=batch_size, dataset=dict(split='train', pipeline={{_base_.train_pipeline}}, **source)
)
val_dataloader = dict(batch_size=64, dataset=dict(split='val', pipeline={{_base_.test_pipeline}}, **source))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=5e-4 * batch_size / 256))
auto_scale_lr = dict(base_batch_size=batch_size)
default_hooks = dict(checkpoint=dict(save_best='accuracy/top1'))
