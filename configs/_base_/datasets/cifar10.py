# CIFAR-10 at its own 32 px (C.1.1, D.1): the original files, or those of tools/prepare_cifar10.py.
# Resized crops and flips only, as MAE (B.4): no colour jitter.
#
# All images live on the device, and the data preprocessor augments whole batches there: the same distribution of crops
# and the same pixels as cifar10_workers.py, which goes the usual way through worker processes. To change over, replace
# one base by the other; a config that uses either passes on `augment`:
#     model = dict(data_preprocessor=dict(augment={{_base_.augment}}))
augment = [
    dict(type='BatchRandomResizedCrop', scale=32, crop_ratio_range=(0.2, 1.0), interpolation='bicubic', flip_prob=0.5)
]
train_dataloader = dict(
    batch_size=512,
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='collate_whole_batch'),
    dataset=dict(type='InMemoryDataset', dataset=dict(type='PreparedCIFAR10', data_root='data/cifar10', split='train')),
)
