# Mask R-CNN on 500 to 50,000 images of your own, in COCO's format. Copy this file and change the lines at the top.
#
# Command:  python tools/train.py configs/detection/mask-rcnn_vit-s_own_coco.py
#           tools/masks_to_coco.py makes annotation files from folders of masks
# Cost:     36 epochs
# Expected: depends on the images
_base_ = './mask-rcnn_vit-s_fpn_coco.py'

data_root = 'data/own/'
classes = ('object',)  # as the annotation files name them; a single one keeps its comma
train = dict(ann_file='annotations/train.json', data_prefix=dict(img='train/'))
val = dict(ann_file='annotations/val.json', data_prefix=dict(img='val/'))
pretrained = dict(type='StrictPretrained', checkpoint='work_dirs/vit-s_folder/epoch_400.pth')  # None: random weights
max_per_img = 100  # objects found in an image
anchor_scale = 8  # the smallest anchors have 4 times as many pixels a side: 2 for objects of 8 px, 4 for 16 px
batch_size, max_epochs, val_interval = 4, 36, 3

model = dict(
    backbone=dict(init_cfg=dict(_delete_=True, **pretrained) if pretrained else None),
    rpn_head=dict(anchor_generator=dict(scales=[anchor_scale])),
    roi_head=dict(bbox_head=dict(num_classes=len(classes)), mask_head=dict(num_classes=len(classes))),
    test_cfg=dict(rpn=dict(max_per_img=max(1000, 3 * max_per_img)), rcnn=dict(max_per_img=max_per_img)),
)
own = dict(data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(batch_size=batch_size, dataset=dict(filter_cfg=dict(min_size=1), **own, **train))
val_dataloader = dict(dataset=dict(**own, **val))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + val['ann_file'])
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(lr=5e-5))  # of a smaller batch than COCO's 16
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, milestones=[27, 33], gamma=0.1),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=val_interval)
auto_scale_lr = dict(base_batch_size=batch_size)
