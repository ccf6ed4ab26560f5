"""Contract: with_cp stores less and changes no number, neither outputs nor gradients, drop path included."""

import pytest
import torch
from builders import CHANNELS, ENCODER, PATCH, config, images
from mmpretrain.registry import MODELS

from randsac_mm.models import RandSACViT
from randsac_mm.segments import raster_layout

GRID = (5, 7)


def vit(with_cp, **kwargs):
    torch.manual_seed(3)
    size = (GRID[0] * PATCH, GRID[1] * PATCH)
    arch = {**ENCODER, 'num_layers': 4}
    return RandSACViT(arch, size, PATCH, CHANNELS, with_cp=with_cp, **kwargs).train()


def step(model, run, autocast):
    """Do one step from a fixed random state; return loss, gradients and bytes stored for the backward pass."""
    torch.manual_seed(5)
    x, stored = images(GRID, batch_size=8), []

    def pack(tensor):
        stored.append(tensor.numel() * tensor.element_size())
        return tensor

    count = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with count, torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
        loss = run(model, x).float().square().mean()
    bytes_stored = sum(stored)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}, bytes_stored


def compare(make, run, autocast=False):
    (loss, gradients, much), found = (step(make(with_cp), run, autocast) for with_cp in (False, True))
    assert found[2] < much / 2
    assert torch.equal(found[0], loss)
    for name, gradient in gradients.items():
        assert torch.equal(found[1][name], gradient), name
        assert gradient.any() or name.endswith('qkv.bias'), name


OPTIONS = {'plain': {}, 'drop-path': dict(drop_path_rate=0.5), 'frozen': dict(frozen_stages=2, drop_path_rate=0.5)}
RUNS = {
    'forward': lambda model, x: model(x)[0],
    'pre-training': lambda model, x: torch.stack(model.encode(x, raster_layout(torch.arange(35).expand(8, -1) // 4))),
}


@pytest.mark.parametrize('run', RUNS.values(), ids=RUNS)
@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize('autocast', [False, True], ids=['float32', 'autocast'])
def test_backbone(options, run, autocast):
    compare(lambda with_cp: vit(with_cp, **options), run, autocast)


def test_decoder():
    def make(with_cp):
        torch.manual_seed(3)
        return MODELS.build(
            config(dict(type='SquarePartition', hierarchy=35), dict(num_layers=8, with_cp=with_cp), GRID)
        )

    compare(make, lambda model, x: model.loss(x)['loss'])
