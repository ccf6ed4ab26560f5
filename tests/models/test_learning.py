"""Contract: a step learns, the model can overfit one batch, and no parameter is dead."""

import pytest
import torch
from builders import ARCHITECTURES, CHANNELS, GRID, PARTITIONS, PATCH, build, config, images
from mmengine.optim import OptimWrapper
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

every_architecture = pytest.mark.parametrize('neck', ARCHITECTURES.values(), ids=ARCHITECTURES)


def overfit(neck, partition, order, lr):
    """Train on one batch; return the first loss and the average of the last."""
    arch = dict(embed_dims=24, num_layers=2, num_heads=3, feedforward_channels=48)
    neck = neck and {**neck, 'embed_dims': 40, 'feedforward_channels': 80}
    cfg = config(PARTITIONS[partition], neck, norm_pix=False, order=order, arch=arch)
    cfg['data_preprocessor'].update(mean=[127.0], std=[74.0])
    model = MODELS.build(cfg).train()
    inputs = torch.randint(256, (2, CHANNELS, GRID[0] * PATCH, GRID[1] * PATCH), dtype=torch.uint8)
    batch = dict(inputs=list(inputs), data_samples=[DataSample() for _ in inputs])
    optim = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0))
    losses = [model.train_step(batch, optim)['loss'].item() for _ in range(300)]
    return losses[0], sum(losses[-10:]) / 10


@pytest.mark.slow
@pytest.mark.parametrize('partition', ['square-flat', 'patch'])
@every_architecture
def test_overfits_one_batch(neck, partition):
    """In a fixed order the first segment identifies the image, so the error can go down to nothing."""
    first, last = overfit(neck, partition, 'RasterSerialization', lr=4e-3)
    assert first > 0.8
    assert last < 0.05


@pytest.mark.slow
def test_learns_random_orders():
    _, last = overfit(ARCHITECTURES['skip'], 'square-flat', 'RandomSerialization', lr=1e-2)
    assert last < 0.5  # predicting grey costs 0.97


OPTIONS = [{}, dict(norm_position='post'), dict(memory_norm='after'), dict(memory_norm='none')]


@pytest.mark.parametrize('options', OPTIONS, ids=str)
@every_architecture
def test_every_parameter_learns(neck, options):
    """No parameter is dead, so distributed training needs no search for unused ones.

    True for two streams as well: the last layer's content is never advanced, but its weights, shared, serve queries.
    """
    model = build(config(neck=neck and {**neck, **options}))
    model.loss(images())['loss'].backward()
    assert {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()} == {
        'backbone.pos_embed'
    }
