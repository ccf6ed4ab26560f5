# Classification of your own images: 500 to 50,000 of any size in class folders, one GPU. `randsac-mm classify` makes a
# copy of this file that fits your images and your encoder. By hand: copy it beside itself and change the lines under
# "Yours"; all that depends on them follows. docs/own_data.md says what may be in the folder.
#
# Command:  cp configs/finetune/finetune_vit-s_own.py configs/finetune/my_data.py
#           python tools/check_data.py configs/finetune/my_data.py --sheet pictures
#           python tools/train.py configs/finetune/my_data.py
# Cost:     10,000 steps of 64 images at 4.6 G multiply-adds an image, thrice that with backward
# Expected: depends on the data; the best checkpoint by accuracy is kept as best_accuracy_top1_*.pth
_base_ = './finetune_vit-b_in1k.py'

# Yours
data_root = 'data/own'
train = dict(split='train')  # data_root/train/CLASS/IMAGE
val = dict(split='val')
classes = ('first', 'second')  # the names of the folders
checkpoint = 'work_dirs/vit-s_folder/epoch_800.pth'  # of pre-training; None: random weights

# The encoder and its input, as in pre-training
encoder = dict(arch='deit-small', img_size=224, patch_size=16, in_channels=3)
embed_dims = 384
mean = [123.675, 116.28, 103.53]
std = [58.395, 57.12, 57.375]

# Sizes and length
size = 224  # px, of what the model reads
short_side = 256  # px, of images to validate on, whose centre is read: 8 / 7 of the size, or the size under 96 px
crops = (0.08, 1.0)  # share of the image that a crop to train on covers; (0.2, 1.0) under 96 px, (0.8, 1.0) under 32
images = 6400  # to train on
batch_size = 64
max_iters = 10000  # steps: about 100 x images / batch_size
validations = 10  # and checkpoints, during the training
bfloat16 = True  # False: float32, for a CPU that is slow in bfloat16

colour = encoder['in_channels'] == 3
regularized = max_iters * batch_size > 30 * images  # in fewer epochs, Mixup, CutMix and stochastic depth only delay
# Averaged tokens of different images are nearly equal; without this a short training learns only that.
normalize = dict(type='ClsBatchNormNeck', input_features=embed_dims, affine=False, eps=1e-6)
model = dict(
    backbone=dict(
        init_cfg=checkpoint and dict(checkpoint=checkpoint), drop_path_rate=0.1 if regularized else 0.0, **encoder
    ),
    neck=[dict(type='GlobalAveragePooling'), normalize],
    head=dict(num_classes=len(classes), in_channels=embed_dims),
    train_cfg={{_base_.model.train_cfg}} if regularized else None,
    data_preprocessor=dict(num_classes=len(classes), mean=mean, std=std, to_rgb=colour),
)
read = dict(type='LoadImageFromFile', color_type='color' if colour else 'grayscale')
fine = dict(backend='pillow', interpolation='bicubic')
train_pipeline = [
    read,
    dict(type='RandomResizedCrop', scale=size, crop_ratio_range=crops, **fine),
    *([dict(type='RandomFlip', prob=0.5)] if colour or size >= 32 else []),  # small grey images may be characters
    *([{{_base_.randaug}}] if colour else []),
    dict(type='PackInputs'),
]
test_pipeline = [
    read,
    dict(type='ResizeEdge', scale=short_side, edge='short', **fine),
    dict(type='CenterCrop', crop_size=size),
    dict(type='PackInputs'),
]
source = dict(_delete_=True, type='LabelledImageFolder', data_root=data_root, classes=classes)
train_dataloader = dict(
    batch_size=batch_size,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(pipeline=train_pipeline, **source, **train),
)
val_dataloader = dict(
    batch_size=64, num_workers=2, persistent_workers=True, dataset=dict(pipeline=test_pipeline, **source, **val)
)
test_dataloader = val_dataloader

optim_wrapper = dict(type='AutocastOptimWrapper' if bfloat16 else 'OptimWrapper', optimizer=dict(lr=1e-3))
warmup, interval = max_iters // 20 + 1, max_iters // validations + 1
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=False, begin=0, end=warmup),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=warmup, end=max_iters),
]
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=interval)
auto_scale_lr = dict(base_batch_size=batch_size)
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=interval, save_best='accuracy/top1'),
)
