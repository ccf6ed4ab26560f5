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


def step(model, layers, run, autocast):
    """Do one step from a fixed random state; return loss, gradients, bytes stored and calls of the last layer."""
    torch.manual_seed(5)
    x = images(GRID, batch_size=8)
    calls, stored = [], []
    handle = layers[-1].register_forward_pre_hook(lambda *_: calls.append(1))

    def pack(tensor):
        stored.append(tensor.numel() * tensor.element_size())
        return tensor

    count = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with count, torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
        loss = run(model, x).float().square().mean()
    kept = sum(stored)
    loss.backward()
    handle.remove()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}, kept, len(calls)


def compare(make, get_layers, run, autocast=False):
    models = [make(with_cp) for with_cp in (False, True)]
    (loss, gradients, much, once), found = (step(model, get_layers(model), run, autocast) for model in models)
    assert (once, found[3]) == (1, 2), 'the second must compute its layers again'
    assert found[2] < much / 2
    assert torch.equal(found[0], loss)
    for name, gradient in gradients.items():
        assert torch.equal(found[1][name], gradient), name
        assert gradient.abs().sum() > 0 or name.endswith('qkv.bias'), name


OPTIONS = {'plain': {}, 'drop-path': dict(drop_path_rate=0.5), 'frozen': dict(frozen_stages=2, drop_path_rate=0.5)}
RUNS = {
    'forward': lambda model, x: model(x)[0],
    'pre-training': lambda model, x: torch.stack(model.encode(x, raster_layout(torch.arange(35).expand(8, -1) // 4))),
}


@pytest.mark.parametrize('run', RUNS.values(), ids=RUNS)
@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize('autocast', [False, True], ids=['float32', 'autocast'])
def test_backbone(options, run, autocast):
    compare(lambda with_cp: vit(with_cp, **options), lambda model: model.layers, run, autocast)


def test_decoder():
    def make(with_cp):
        torch.manual_seed(3)
        return MODELS.build(
            config(dict(type='SquarePartition', hierarchy=35), dict(num_layers=8, with_cp=with_cp), GRID)
        )

    compare(make, lambda model: model.neck.layers, lambda model, x: model.loss(x)['loss'])


def test_drop_path_drops_something():
    """The control: without the random state of the first pass, the second would drop other branches."""
    model, x = vit(True, drop_path_rate=0.5), images(GRID)
    assert not torch.equal(model(x)[0], model(x)[0])


def test_only_where_gradients_are_stored(monkeypatch):
    monkeypatch.setattr('randsac_mm.models.layers.checkpoint', lambda *_, **__: pytest.fail('checkpointing'))
    model, x = vit(True), images(GRID)
    model.eval()(x)
    with torch.no_grad():
        model.train()(x)
    with pytest.raises(pytest.fail.Exception, match='checkpointing'):
        model(x)
