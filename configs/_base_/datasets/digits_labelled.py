# The digits with labels, in large batches, and the 360 held-out ones to evaluate on.
_base_ = './digits.py'

train_dataloader = dict(batch_size=256, dataset=dict(with_label=True))
val_dataloader = dict(
    batch_size=360,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='Digits', split='test'),
)
test_dataloader = val_dataloader
