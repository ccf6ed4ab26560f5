# CIFAR-10 with labels: the whole-batch crops and flips of pre-training (cifar10.py), and the test set as it is.
_base_ = './cifar10.py'

train_dataloader = dict(dataset=dict(with_label=True))
val_dataloader = dict(
    batch_size=512,
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='collate_whole_batch'),
    dataset=dict(
        type='InMemoryDataset',
        with_label=True,
        dataset=dict(type='PreparedCIFAR10', data_root='data/cifar10', split='test'),
    ),
)
test_dataloader = val_dataloader
