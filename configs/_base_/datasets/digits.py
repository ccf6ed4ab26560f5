# The handwritten digits inside scikit-learn: 1,437 real grey images of 8 x 8 pixels for training, 360
# for evaluation.
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='Digits', split='train', with_label=False),
)
