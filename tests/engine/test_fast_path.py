"""Contract: whatever makes training fast leaves the losses as they are."""

import pytest
import torch
from builders import PARTITIONS, build, config
from engine.toy_engine import Wrapper
from torch import nn

from randsac_mm.engine.compile import compile_model, compiled_graphs
from randsac_mm.segments import raster_layout

BATCH = 24
# Wide enough for the faster matrix product to be used: it leaves small ones alone.
ENCODER = dict(embed_dims=64, num_layers=3, num_heads=4, feedforward_channels=128)
DECODER = dict(embed_dims=64, num_layers=2, num_heads=4, feedforward_channels=128)


def make(partition, attention='sdpa', with_cp=False):
    torch.manual_seed(0)
    cfg = config(PARTITIONS[partition], dict(with_cp=with_cp, **DECODER), arch=ENCODER, with_cp=with_cp)
    cfg['head']['embed_dims'] = DECODER['embed_dims']
    return build(dict(cfg, attention=attention))


def simple_loss(model, batch):
    """As section 4 has it: raster order, all tokens, masks of each image's own."""
    layout = raster_layout(batch['rank'])
    pred = model.predict(batch['inputs'], layout)
    return model.head.loss(pred, batch['inputs'], layout.target, layout.predicted)


def fast_loss(model, batch):
    return model.loss(**batch)['loss']


def train(model, loss=fast_loss, fused=True, accumulate=1):
    """Train for 50 steps on images drawn from a fixed seed and return all losses."""
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3, fused=fused)
    torch.manual_seed(1)
    images = torch.rand(64, 2, 12, 18) * 255
    losses = []
    for step in range(50):
        inputs = images[torch.randint(64, (BATCH,))]
        batch = model.data_preprocessor(dict(inputs=inputs), training=True)
        value = loss(model, batch) / accumulate
        value.backward()
        losses.append(value.item() * accumulate)
        if (step + 1) % accumulate == 0:
            if accumulate > 1:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:The .grad attribute of a Tensor that is not a leaf')  # torch.compile's own
@pytest.mark.parametrize(
    ('partition', 'compiled', 'accumulate', 'with_cp'),
    [
        ('square-hierarchical', None, 1, False),
        ('blob-flat', None, 1, False),
        ('square-hierarchical', 'whole', 1, False),
        ('blob-flat', 'layers', 2, True),
    ],
)
def test_fast_layout_and_compiled_code_give_the_losses_of_the_simple_path(partition, compiled, accumulate, with_cp):
    expected = train(make(partition, 'plain'), simple_loss, fused=False, accumulate=accumulate)
    assert expected[-5:].mean() < 0.9 * expected[:5].mean(), 'nothing was learned, so nothing was compared'
    model = make(partition, with_cp=with_cp)
    keys = list(model.state_dict())
    if compiled:
        compile_model(Wrapper(model) if with_cp else model, whole=compiled == 'whole')
    graphs = []

    def loss_and_count(model, batch):
        graphs.append(compiled_graphs())
        return fast_loss(model, batch)

    losses = train(model, loss_and_count, accumulate=accumulate)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    assert list(model.state_dict()) == keys
    assert (graphs[0] < graphs[4]) == bool(compiled)
    rare = 8 if partition == 'blob-flat' else 0  # lengths of groups of images
    assert graphs[-1] - graphs[4] <= rare, 'compiled in the first steps, and never again'
