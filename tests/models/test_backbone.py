"""Contract: ``forward`` is mmpretrain's VisionTransformer in keys and numbers; ``encode`` is the same, masked."""

import pytest
import torch
from builders import CHANNELS, ENCODER, PATCH, perturb
from mmpretrain.models.backbones import VisionTransformer

from randsac_mm.models import RandSACViT
from randsac_mm.segments import Layout, raster_layout, source_mask

SIZE = (5 * PATCH, 7 * PATCH)
SHARED = dict(arch=ENCODER, img_size=SIZE, patch_size=PATCH, in_channels=CHANNELS)


def ours(**kwargs):
    return perturb(RandSACViT(**{**SHARED, **kwargs})).eval()


def theirs(**kwargs):
    model = VisionTransformer(**{**SHARED, 'with_cls_token': False, 'norm_cfg': dict(type='LN', eps=1e-6), **kwargs})
    model.eval()  # returns None
    return model


def pixels(height=SIZE[0], width=SIZE[1], batch_size=3):
    return torch.randn(batch_size, CHANNELS, height, width)


OPTIONS = {
    'featmap': dict(out_type='featmap'),
    'raw': dict(out_type='raw'),
    'avg_featmap': dict(out_type='avg_featmap'),
    'all-layers': dict(out_indices=[0, 1, 2]),
    'negative-indices': dict(out_indices=[-3, -1], out_type='raw'),
    'no-final-norm': dict(final_norm=False),
    'no-qkv-bias': dict(qkv_bias=False),
    'square': dict(img_size=4 * PATCH),
}


@torch.no_grad()
@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
def test_equals_mmpretrain(options):
    kwargs = {'out_type': 'featmap', **options}
    mine, other = ours(**kwargs), perturb(theirs(**kwargs))
    x = pixels(*mine.img_size)
    for source, receiver in ((mine, other), (perturb(other), mine)):
        receiver.load_state_dict(source.state_dict(), strict=True)
        for a, b in zip(mine(x), other(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('size', [(15, 21), (21, 15), (30, 42), (6, 45)], ids=str)
def test_equals_mmpretrain_at_other_sizes_where_it_interpolates(size):
    """mmpretrain resizes positions bicubically; stretched ones are equal at the size of the pre-training."""
    x = pixels(*size)
    other = theirs(out_type='raw')
    for positions, equal in (('bicubic', True), ('trainable', True), ('stretched', size == SIZE)):
        mine = ours(out_type='raw', positions=positions)
        other.load_state_dict(mine.state_dict(), strict=True)
        close = torch.allclose(mine(x)[0], other(x)[0], rtol=1e-4, atol=1e-4)
        assert close is equal, positions


@pytest.mark.parametrize('name', ['deit-tiny', 'base', 'DeiT-Small'])
def test_named_architectures_have_the_same_parameters(name):
    with torch.device('meta'):
        expected = theirs(arch=name, img_size=32, patch_size=16, in_channels=3, out_type='featmap').state_dict()
        found = RandSACViT(arch=name, img_size=32, patch_size=16).state_dict()
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_layer_depths_equal_mmpretrain(prefix):
    mine, other = ours(out_type='avg_featmap'), theirs(out_type='avg_featmap')
    names = [prefix + name for name, _ in mine.named_parameters()]
    assert {mine.get_layer_depth(name, prefix)[0] for name in names} == set(range(5))
    for name in [*names, 'head.layers.0.weight'] if prefix else names:
        assert mine.get_layer_depth(name, prefix) == other.get_layer_depth(name, prefix)


def test_drop_path_rates_rise_to_the_given_one():
    rates = [getattr(layer.drop_path, 'drop_prob', 0.0) for layer in ours(drop_path_rate=0.3).layers]
    assert rates == pytest.approx([0, 0.15, 0.3])


@torch.no_grad()
def test_drop_path_only_in_training_of_layers_that_are_not_frozen():
    x, layout = pixels(batch_size=16), raster_layout(torch.arange(35).expand(16, -1))
    for training, frozen in ((False, -1), (True, -1), (True, 3)):
        model = ours(drop_path_rate=0.5, frozen_stages=frozen).train(training)
        same = not training or frozen == 3
        assert torch.equal(model(x)[0], model(x)[0]) is same
        assert torch.equal(model.encode(x, layout)[-1], model.encode(x, layout)[-1]) is same


@torch.no_grad()
def test_encode_without_masks_is_forward():
    """In whatever order tokens come: those of one segment all see each other."""
    model, x = ours(out_indices=[0, 1, 2], out_type='raw'), pixels()
    places = torch.stack([torch.arange(35), torch.randperm(35), torch.randperm(35)])
    mask = source_mask(torch.zeros(1, 35), torch.zeros(1, 35))
    layout = Layout(places, places, mask, mask, mask, torch.ones(3, 35, dtype=torch.bool))
    for a, b in zip(model.encode(x, layout.prepare('sdpa', x.dtype)), model(x), strict=True):
        torch.testing.assert_close(a, b.gather(1, places[..., None].expand_as(b)))


@pytest.mark.parametrize('stages', [-1, 0, 1, 2, 3])
@pytest.mark.parametrize('out_type', ['featmap', 'avg_featmap'])
def test_frozen_stages_equal_mmpretrain(stages, out_type):
    """But for 0, the patch embedding: here mmpretrain freezes nothing, although its own layers count from 1."""
    mine, other = ours(frozen_stages=stages, out_type=out_type), theirs(frozen_stages=stages, out_type=out_type)
    mine.train()
    other.train()
    frozen, expected = ({n for n, p in model.named_parameters() if not p.requires_grad} for model in (mine, other))
    if stages == 0:
        expected = {'patch_embed.projection.weight', 'patch_embed.projection.bias'}
    assert frozen == expected | {'pos_embed'}
    assert [layer.training for layer in mine.layers] == [i >= stages for i in range(3)]
    assert mine.patch_embed.training is (stages < 0)


BAD_OPTIONS = [
    (dict(arch='vit-b'), "vit-b.*'base'"),
    (dict(arch=dict(embed_dims=12)), 'num_layers'),
    (dict(arch={**ENCODER, 'mlp_ratio': 4}), 'mlp_ratio'),
    (dict(arch={**ENCODER, 'embed_dims': 14, 'num_heads': 2}), 'embed_dims=14 .* 4'),
    (dict(arch={**ENCODER, 'num_heads': 5}), 'embed_dims=12 .* num_heads=5'),
    (dict(out_type='cls_token'), 'cls_token'),
    (dict(positions='learned'), "positions='learned' .*'trainable'"),
    (dict(out_indices=[0, -4]), r'-4\] .* 3 layers'),
    (dict(frozen_stages=4), 'frozen_stages=4 .*3'),
    (dict(img_size=(15, 20)), '15 x 20 .* 3 x 3'),
    (dict(img_size=0), '0 x 0'),
]


@pytest.mark.parametrize(('kwargs', 'message'), BAD_OPTIONS, ids=str)
def test_options_that_are_not_possible(kwargs, message):
    with pytest.raises(ValueError, match=message):
        RandSACViT(**{**SHARED, **kwargs})


BAD_SHAPES = [
    ((2, 3, 15, 21), r'\(2, 3, 15, 21\).* 2, H'),
    ((2, 15, 21), r'\(2, 15, 21\)'),
    ((2, 2, 16, 21), '16 x 21'),
    ((2, 2, 15, 2), '15 x 2'),
]


@pytest.mark.parametrize(('shape', 'message'), BAD_SHAPES, ids=str)
def test_images_that_do_not_fit(shape, message):
    model, x, layout = ours(), torch.zeros(shape), raster_layout(torch.arange(35).expand(2, -1))
    for run in (lambda: model(x), lambda: model.encode(x, layout)):
        with pytest.raises(ValueError, match=message):
            run()
