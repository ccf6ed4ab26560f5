"""Contract: a step learns, one batch is learned by heart, and no parameter is dead."""

import pytest
import torch
from builders import ARCHITECTURES, CHANNELS, GRID, PARTITIONS, PATCH, build, config, images
from mmengine.optim import OptimWrapper
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

every_architecture = pytest.mark.parametrize('neck', ARCHITECTURES.values(), ids=ARCHITECTURES)


def data(batch_size=3, listed=False):
    inputs = torch.randint(256, (batch_size, CHANNELS, GRID[0] * PATCH, GRID[1] * PATCH), dtype=torch.uint8)
    return dict(inputs=list(inputs) if listed else inputs, data_samples=[DataSample() for _ in inputs])


def trainable(cfg):
    cfg['data_preprocessor'].update(mean=[127.0], std=[74.0])
    return MODELS.build(cfg).train()


@pytest.mark.parametrize('listed', [False, True], ids=['tensor', 'list'])
@every_architecture
def test_train_step(neck, listed):
    model = trainable(config(neck=neck))
    optim = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-3))
    before = {name: p.clone() for name, p in model.named_parameters()}
    log = model.train_step(data(listed=listed), optim)
    assert set(log) == {'loss'}
    assert log['loss'].shape == ()
    assert log['loss'] > 0
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(before) - {'backbone.pos_embed'}


def overfit(neck, partition, order, lr, steps=300):
    """Train on one batch of two images of noise, which nothing but memory can predict; give all losses."""
    encoder = dict(embed_dims=24, num_layers=2, num_heads=3, feedforward_channels=48)
    if neck is not None:
        neck = {**neck, 'encoder_dims': 24, 'encoder_layers': 2, 'embed_dims': 40, 'feedforward_channels': 80}
    cfg = config(PARTITIONS[partition], neck, norm_pix=False, order=order, arch=encoder)
    cfg['head']['embed_dims'] = 24 if neck is None else 40
    model, batch = trainable(cfg), data(batch_size=2)
    optim = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0))
    return [model.train_step(batch, optim)['loss'].item() for _ in range(steps)]


@pytest.mark.slow
@pytest.mark.parametrize('partition', ['square-flat', 'patch'])
@every_architecture
def test_learns_one_batch_by_heart(neck, partition):
    """In a fixed order the first segment tells which image it is, so the error can go down to nothing."""
    losses = overfit(neck, partition, 'RasterSerialization', lr=4e-3)
    assert losses[0] > 0.8
    assert sum(losses[-10:]) / 10 < 0.05


@pytest.mark.slow
def test_learns_random_orders():
    losses = overfit(ARCHITECTURES['skip'], 'square-flat', 'RandomSerialization', lr=1e-2)
    assert sum(losses[-10:]) / 10 < 0.5  # predicting grey costs 0.97


OPTIONS = [{}, dict(norm_position='post'), dict(memory_norm='after'), dict(memory_norm='none')]


@pytest.mark.parametrize('options', OPTIONS, ids=str)
@every_architecture
def test_every_parameter_learns(neck, options):
    """None is dead, so distributed training needs no search for unused parameters.

    True for two streams as well: the last layer's content is never advanced, but its weights, shared, serve queries.
    """
    model = build(config(neck=neck and {**neck, **options}))
    model.loss(images())['loss'].backward()
    dead = {name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    assert dead == set()


def test_parameters_of_a_pooling_backbone_are_dead():
    """``out_type='avg_featmap'`` makes a norm for pooled features that pre-training has no use for."""
    model = build(config(out_type='avg_featmap'))
    model.loss(images())['loss'].backward()
    assert {name for name, p in model.named_parameters() if p.grad is None} == {
        'backbone.pos_embed',
        'backbone.ln2.weight',
        'backbone.ln2.bias',
    }
