"""Contract: ``forward`` is mmpretrain's VisionTransformer in keys and numbers; ``encode`` is the same, masked."""

import re

import pytest
import torch
from builders import CHANNELS, ENCODER, PATCH
from mmpretrain.models.backbones import VisionTransformer

from randsac_mm.models import RandSACViT
from randsac_mm.models.positions import sincos_positions
from randsac_mm.segments import Layout, raster_layout, source_mask

SIZE = (5 * PATCH, 7 * PATCH)
SHARED = dict(arch=ENCODER, img_size=SIZE, patch_size=PATCH, in_channels=CHANNELS)


def perturb(module):
    for name, parameter in module.named_parameters():
        if not name.endswith('pos_embed'):
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return module


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
    mine, other = ours(**kwargs), theirs(**kwargs)
    other.load_state_dict(mine.state_dict(), strict=True)
    x = pixels(*mine.img_size)
    expected, found = other(x), mine(x)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

    perturb(other)
    mine.load_state_dict(other.state_dict(), strict=True)
    for a, b in zip(mine(x), other(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['deit-tiny', 'deit-small', 'base', 'DeiT-Tiny'])
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
    for name in [*names, 'head.layers.0.weight', 'neck.layers.1.ffn.weight']:
        assert mine.get_layer_depth(name, prefix or 'backbone.') == other.get_layer_depth(name, prefix or 'backbone.')
    for name in names:
        assert mine.get_layer_depth(name, prefix) == other.get_layer_depth(name, prefix)


def test_drop_path_rates_equal_mmpretrain():
    def rates(model):
        return [getattr(layer.drop_path, 'drop_prob', 0.0) for layer in model.layers]

    expected = [
        getattr(layer.ffn.dropout_layer, 'drop_prob', 0.0)
        for layer in theirs(drop_path_rate=0.3, out_type='raw').layers
    ]
    assert rates(ours(drop_path_rate=0.3)) == pytest.approx(expected)
    assert rates(ours(drop_path_rate=0.3)) == pytest.approx([0, 0.15, 0.3])
    assert rates(ours(drop_path_rate=0.3, arch={**ENCODER, 'num_layers': 1})) == [0.0]


@torch.no_grad()
def test_drop_path_only_in_training():
    model, x = ours(drop_path_rate=0.5), pixels(batch_size=16)
    assert torch.equal(model(x)[0], model(x)[0])
    layout = raster_layout(torch.arange(35).expand(16, -1))
    assert torch.equal(model.encode(x, layout)[-1], model.encode(x, layout)[-1])
    model.train()
    assert not torch.equal(model(x)[0], model(x)[0])
    assert not torch.equal(model.encode(x, layout)[-1], model.encode(x, layout)[-1])


@torch.no_grad()
@pytest.mark.parametrize('grid', [(2, 11), (7, 5), (6, 6), (1, 1)], ids=str)
def test_other_image_sizes_get_their_own_positions(grid):
    model = ours()
    size = (grid[0] * PATCH, grid[1] * PATCH)
    made_for_it = ours(img_size=size)
    state = {**model.state_dict(), 'pos_embed': sincos_positions(grid, ENCODER['embed_dims'])}
    made_for_it.load_state_dict(state, strict=True)
    x = pixels(*size)
    assert model(x)[0].shape == (3, 12, *grid)
    torch.testing.assert_close(model(x)[0], made_for_it(x)[0])


@torch.no_grad()
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize('grid', [(5, 7), (2, 3)], ids=['usual-size', 'other-size'])
def test_other_number_types(dtype, grid):
    model = ours().to(dtype)
    out = model(pixels(grid[0] * PATCH, grid[1] * PATCH).to(dtype))[0]
    assert out.dtype == dtype
    assert out.isfinite().all()


@torch.no_grad()
def test_encode_without_masks_is_forward():
    model = ours(out_indices=[0, 1, 2], out_type='raw')
    x = pixels()
    everything = torch.arange(35).expand(3, -1)
    open_mask = source_mask(torch.zeros(1, 35), torch.zeros(1, 35))
    layout = Layout(everything, everything, open_mask, open_mask, open_mask, torch.ones(3, 35, dtype=torch.bool))
    hidden = model.encode(x, layout)
    assert len(hidden) == 3
    for a, b in zip(hidden, model(x), strict=True):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_encode_some_tokens_in_any_order():
    """Tokens that one segment holds all see each other: in which order they come does not matter."""
    model, x = ours(), pixels()
    places = torch.stack([torch.randperm(35) for _ in range(3)])
    mask = source_mask(torch.zeros(1, 35), torch.zeros(1, 35))
    scattered = Layout(places, places, mask, mask, mask, torch.ones(3, 35, dtype=torch.bool))
    in_order = scattered._replace(source=torch.arange(35).expand(3, -1))
    expected = model.encode(x, in_order)[-1].gather(1, places[..., None].expand(-1, -1, 12))
    torch.testing.assert_close(model.encode(x, scattered)[-1], expected)


# --- frozen layers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('stages', [-1, 1, 2, 3])
@pytest.mark.parametrize('out_type', ['featmap', 'avg_featmap'])
def test_frozen_stages_equal_mmpretrain(stages, out_type):
    mine, other = ours(frozen_stages=stages, out_type=out_type), theirs(frozen_stages=stages, out_type=out_type)
    mine.train()
    other.train()
    frozen = {name for name, p in mine.named_parameters() if not p.requires_grad}
    expected = {name for name, p in other.named_parameters() if not p.requires_grad}
    assert frozen == expected | {'pos_embed'}
    for i, layer in enumerate(mine.layers):
        assert layer.training is (i >= stages)
    assert mine.patch_embed.training is (stages < 0)


def test_frozen_stages_0_freezes_the_patch_embedding():
    """Here mmpretrain freezes nothing, although its own layers count from 1."""
    model = ours(frozen_stages=0).train()
    frozen = {name.split('.')[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {'patch_embed', 'pos_embed'}
    assert not model.patch_embed.training
    assert all(layer.training for layer in model.layers)


def test_frozen_layers_do_not_drop_paths():
    model = ours(drop_path_rate=0.9, frozen_stages=3)
    x = pixels(batch_size=8)
    model.train()
    with torch.no_grad():
        assert torch.equal(model(x)[0], model(x)[0])


def test_eval_and_train_return_the_module():
    model = ours(frozen_stages=1)
    assert model.eval() is model
    assert model.train() is model
    assert model.training


# --- what cannot be done ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(arch='vit-b'), r"arch='vit-b' is unknown\. Choose one of \['b', 'base'"),
        (dict(arch=dict(embed_dims=12)), r"must have exactly the keys \('embed_dims', 'num_layers'"),
        (dict(arch={**ENCODER, 'mlp_ratio': 4}), r'mlp_ratio.*must have exactly the keys'),
        (dict(arch={**ENCODER, 'embed_dims': 14, 'num_heads': 2}), r'embed_dims=14 must be a multiple of 4'),
        (dict(arch={**ENCODER, 'num_heads': 5}), r'embed_dims=12 is not divisible by num_heads=5'),
        (dict(out_type='cls_token'), r"out_type='cls_token' must be one of .*: there is no class token"),
        (dict(out_indices=3), r'out_indices=\[3\] names layer 3, but there are only 3 layers'),
        (dict(out_indices=[0, -4]), r'out_indices=\[0, -4\] names layer -4'),
        (dict(frozen_stages=4), r'frozen_stages=4 must lie between -1 and num_layers=3'),
        (dict(frozen_stages=-2), r'frozen_stages=-2 must lie between'),
        (dict(img_size=(15, 20)), r'image of 15 x 20 pixels cannot be cut in patches of 3 x 3\. Resize'),
        (dict(img_size=0), r'image of 0 x 0 pixels cannot be cut'),
    ],
    ids=str,
)
def test_options_that_are_not_possible(kwargs, message):
    with pytest.raises(ValueError, match=message):
        RandSACViT(**{**SHARED, **kwargs})


@pytest.mark.parametrize(
    ('shape', 'message'),
    [
        ((2, 3, 15, 21), r'shape \(2, 3, 15, 21\), but this backbone reads \(B, 2, H, W\)'),
        ((2, 15, 21), r'shape \(2, 15, 21\), but this backbone reads'),
        ((2, 2, 16, 21), r'image of 16 x 21 pixels cannot be cut'),
        ((2, 2, 15, 2), r'image of 15 x 2 pixels cannot be cut'),
    ],
    ids=str,
)
def test_images_that_do_not_fit(shape, message):
    model, x = ours(), torch.zeros(shape)
    with pytest.raises(ValueError, match=message):
        model(x)
    layout = raster_layout(torch.arange(35).expand(2, -1))
    with pytest.raises(ValueError, match=message):
        model.encode(x, layout)


def test_misspelt_options_are_errors():
    with pytest.raises(TypeError, match=re.escape("'drop_path'")):
        RandSACViT(**SHARED, drop_path=0.1)
