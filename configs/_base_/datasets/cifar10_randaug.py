# CIFAR-10 with labels for fine-tuning: RandAug (9, 0.5) after the crop (D.3), by worker processes.
_base_ = './cifar10_workers.py'

train_pipeline = [
    dict(type='RandomResizedCrop', scale=32, crop_ratio_range=(0.2, 1.0), backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[125, 123, 114], interpolation='bicubic'),
    ),
    dict(type='PackInputs'),
]
# tools/train.py starts one worker for each core of a process, but not more than this number.
auto_num_workers = 16
train_dataloader = dict(batch_size=1024, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=512,
    num_workers=0,
    persistent_workers=False,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='PreparedCIFAR10', data_root='data/cifar10', split='test', pipeline=[dict(type='PackInputs')]),
)
test_dataloader = val_dataloader
