"""Contract: with_cp stores less and changes no number, neither outputs nor gradients, drop path included."""

import pytest
import torch
from builders import CHANNELS, ENCODER, PATCH, build, config

from randsac_mm.models import RandSACViT
from randsac_mm.segments import raster_layout

OPTIONS = {
    'plain': {},
    'drop-path': dict(drop_path_rate=0.5),
    'windows': dict(window_size=3, drop_path_rate=0.5),
    'layer-bias': dict(rel_pos_bias='layer', window_size=2, global_layers=[1]),
    'shared-bias': dict(method='beitv2', drop_path_rate=0.5),
    'learned': dict(method='maskfeat'),
    'frozen': dict(frozen_stages=2, drop_path_rate=0.5),
}
SIZE = (5 * PATCH, 7 * PATCH)


def vit(with_cp, **kwargs):
    torch.manual_seed(3)
    return RandSACViT(
        arch={**ENCODER, 'num_layers': 4},
        img_size=SIZE,
        patch_size=PATCH,
        in_channels=CHANNELS,
        with_cp=with_cp,
        **kwargs,
    )


def step(model, run, autocast=False):
    """Do one step from a fixed random state; give outputs, gradients, bytes stored and calls of the last layer."""
    torch.manual_seed(5)
    images = torch.randn(8, CHANNELS, *SIZE)
    calls, stored = [], []
    handle = model.layers[-1].register_forward_pre_hook(lambda *_: calls.append(1))

    def pack(tensor):
        stored.append(tensor.numel() * tensor.element_size())
        return tensor

    count = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with count, torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
        out = run(model, images)
    kept = sum(stored)
    out.float().square().mean().backward()
    handle.remove()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return out.detach(), gradients, kept, len(calls)


def forward(model, images):
    return model(images)[0]


def encode(model, images):
    return torch.stack(model.encode(images, raster_layout(torch.arange(35).expand(8, -1) // 4)))


def compare(plain, checkpointed, run, **kwargs):
    expected, expected_gradients, much, once = step(plain, run, **kwargs)
    found, gradients, little, twice = step(checkpointed, run, **kwargs)
    assert (once, twice) == (1, 2), 'the second must compute its layers again'
    assert little < much / 2
    assert torch.equal(found, expected)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, expected_gradients[name]), name
        assert gradient.abs().sum() > 0 or name.endswith('qkv.bias'), name


@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
def test_same_outputs_and_gradients(options):
    compare(vit(False, **options).train(), vit(True, **options).train(), forward)


def test_in_autocast():
    compare(vit(False).train(), vit(True).train(), forward, autocast=True)


def test_in_pre_training():
    compare(vit(False, drop_path_rate=0.5).train(), vit(True, drop_path_rate=0.5).train(), encode)


def test_drop_path_drops_something():
    """The control: without the random state of the first pass, the second would drop other branches."""
    model, images = vit(True, drop_path_rate=0.5).train(), torch.randn(8, CHANNELS, *SIZE)
    assert not torch.equal(model(images)[0], model(images)[0])


def test_only_where_gradients_are_stored(monkeypatch):
    monkeypatch.setattr('randsac_mm.models.layers.checkpoint', lambda *_, **__: pytest.fail('checkpointing'))
    model, images = vit(True), torch.randn(2, CHANNELS, *SIZE)
    model.eval()(images)
    with torch.no_grad():
        model.train()(images)
    with pytest.raises(pytest.fail.Exception, match='checkpointing'):
        model(images)


def decoder_step(with_cp):
    """Do one step of a whole model; give the loss, the decoder's gradients, and bytes stored."""
    torch.manual_seed(3)
    model = build(config(neck=dict(with_cp=with_cp, drop_path_rate=0.5)))
    torch.manual_seed(5)
    images = torch.randn(8, CHANNELS, 4 * PATCH, 6 * PATCH)
    batch = model.data_preprocessor.draw(images)
    stored = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: stored.append(x.numel()) or x, lambda x: x):
        loss = model.loss(images, **batch)['loss']
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.neck.named_parameters()}, sum(stored)


def test_decoder():
    loss, gradients, kept = decoder_step(with_cp=True)
    expected, expected_gradients, all_kept = decoder_step(with_cp=False)
    assert torch.equal(loss, expected)
    for name, gradient in expected_gradients.items():
        assert torch.equal(gradients[name], gradient), name
    assert kept < all_kept
