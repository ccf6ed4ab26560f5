# Mask R-CNN on your own images, 500 to 50,000 of any size with annotations in COCO's format, one GPU. Copy this file
# beside itself and change the lines under "Yours"; all that depends on them follows. docs/own_data.md says what may be
# in the files; tools/masks_to_coco.py makes them from folders of masks.
#
# Command:  cp configs/detection/mask-rcnn_vit-s_own_coco.py configs/detection/my_data.py
#           python tools/check_data.py configs/detection/my_data.py --sheet pictures
#           python tools/train.py configs/detection/my_data.py
# Cost:     36 epochs at 444 G multiply-adds an image of 1024 px, thrice that with backward
# Expected: depends on the data
_base_ = './mask-rcnn_vit-s_fpn_coco.py'

# Yours
data_root = 'data/own/'
classes = ('object',)  # as the annotation files name them; a single one keeps its comma
train = dict(ann_file='train.json', data_prefix=dict(img='images/'))
val = dict(ann_file='val.json', data_prefix=dict(img='images/'))
checkpoint = 'work_dirs/vit-s_folder/epoch_800.pth'  # of pre-training; None: random weights

max_per_img = 100  # objects found in an image
anchor_scale = 8  # the smallest anchors have 4 times as many pixels a side: 2 for objects of 8 px, 4 for 16 px
batch_size, max_epochs = 4, 36

model = dict(
    backbone=dict(init_cfg=checkpoint and dict(checkpoint=checkpoint)),
    rpn_head=dict(anchor_generator=dict(scales=[anchor_scale])),
    roi_head=dict(bbox_head=dict(num_classes=len(classes)), mask_head=dict(num_classes=len(classes))),
    test_cfg=dict(rpn=dict(max_per_img=max(1000, 3 * max_per_img)), rcnn=dict(max_per_img=max_per_img)),
)
source = dict(data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(batch_size=batch_size, dataset=dict(filter_cfg=dict(min_size=1), **source, **train))
val_dataloader = dict(dataset=dict(**source, **val))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + val['ann_file'])
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(lr=1e-4 * (batch_size / 16) ** 0.5))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=250),
    dict(
        type='MultiStepLR',
        by_epoch=True,
        begin=0,
        end=max_epochs,
        milestones=[max_epochs * 3 // 4, max_epochs * 11 // 12],
        gamma=0.1,
    ),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=3)
auto_scale_lr = dict(base_batch_size=batch_size)
