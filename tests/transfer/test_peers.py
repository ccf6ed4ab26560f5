"""Contract: after conversion our features are those of mmpretrain's own class run without its class token."""

import pytest
import torch
from mmpretrain.models.utils import build_2d_sincos_position_embedding, resize_pos_embed
from mmpretrain.registry import MODELS
from peer_models import ARCH, CONFIGS, FIXED, backbone, build, peers_table, without_extra_tokens

from randsac_mm.models.positions import sincos_positions
from randsac_mm.models.relative_position import relative_bias
from randsac_mm.transfer.peers import convert
from randsac_mm.transfer.resize import resize_bias_table

pytestmark = pytest.mark.filterwarnings('ignore:torch.meshgrid')
TABLE = 'rel_pos_bias.relative_position_bias_table'
METHODS = ['mae', 'beitv2', 'mocov3', 'maskfeat', 'cae', 'deit']
ALL = dict(out_indices=[0, 1, 2, 3], out_type='raw')


def load(vit, state):
    """Convert, check that everything in the file is accounted for, and load strictly."""
    before = {key: value.clone() for key, value in state.items()}
    converted, fates = convert(state, vit)
    for key in state:
        assert (key in converted) or fates[key], key
        assert torch.equal(state[key], before[key]), 'the checkpoint was written to'
    for key in converted.keys() & state.keys() - fates.keys():
        assert torch.equal(converted[key], state[key]), f'{key} has changed without a word'
    vit.load_state_dict(converted, strict=True)
    return fates


def assert_same_features(vit, images, expected):
    with torch.no_grad():
        found = vit(images)
    assert len(found) == len(expected) == 4
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', CONFIGS)
def test_features_equal_mmpretrain_without_class_token(name):
    theirs, vit = build(name), backbone(name, **ALL)
    load(vit, theirs.state_dict())
    images = torch.randn(3, 3, 24, 24)
    expected = without_extra_tokens(theirs, images)
    assert_same_features(vit, images, expected)
    assert expected[-1].std() > 0.1


@torch.no_grad()
@pytest.mark.parametrize(
    ('name', 'config'),
    [
        ('mocov3', {}),
        ('deit', {}),
        ('cae', dict(type='BEiTViT', use_abs_pos_emb=True, use_rel_pos_bias=False, final_norm=True)),
    ],
    ids=['mocov3', 'deit', 'cae'],
)
def test_features_equal_mmpretrains_own_forward(name, config):
    """These classes can be built without class token: then nothing of theirs is left out."""
    theirs = build(name, with_cls_token=False, out_indices=[0, 1, 2, 3], out_type='raw', **config)
    if name in FIXED:
        theirs.pos_embed.copy_(build_2d_sincos_position_embedding(6, ARCH['embed_dims']))
    vit = backbone(name, **ALL)
    load(vit, theirs.state_dict())
    images = torch.randn(3, 3, 24, 24)
    assert_same_features(vit, images, theirs(images))


@pytest.mark.parametrize('name', CONFIGS)
def test_resized_to_another_grid(name):
    """The reference is mmpretrain's class, given what its own functions make for the other grid, where they work."""
    theirs, vit = build(name), backbone(name, (32, 20), **ALL)
    state = theirs.state_dict()
    fates = load(vit, state)
    images = torch.randn(2, 3, 32, 20)
    positions = shared = None
    if name in FIXED:
        assert 'made for 8 x 5' in fates['pos_embed']
        positions = sincos_positions((8, 5), ARCH['embed_dims'], first='rows')
    elif 'pos_embed' in state:
        extra = state['pos_embed'].shape[1] - 36
        positions = resize_pos_embed(state['pos_embed'], (6, 6), (8, 5), num_extra_tokens=extra)[:, extra:]
        assert fates['pos_embed'].endswith('dropped, resized 6 x 6 -> 8 x 5')
    if positions is not None:
        assert torch.equal(vit.pos_embed, positions)
    if TABLE in state:
        assert fates[TABLE] == "class token's 3 rows dropped, resized 6 x 6 -> 8 x 5"
        table = resize_bias_table(state[TABLE][:-3], (6, 6), (8, 5))
        assert torch.equal(vit.rel_pos_bias.relative_position_bias_table, table)
        shared = relative_bias(table, (8, 5), (8, 5))
    assert_same_features(vit, images, without_extra_tokens(theirs, images, positions, shared))


@pytest.mark.parametrize('name', ['mae', 'mocov3', 'cae'])
@pytest.mark.parametrize('first', ['rows', 'columns'])
@pytest.mark.parametrize('half', [False, True], ids=['float32', 'float16'])
def test_order_of_fixed_axes_comes_from_the_checkpoint(name, first, half):
    """mmpretrain's positions start with the row, MAE's own code with the column; both are loaded under one name."""
    theirs, vit = build(name), backbone(name, (24, 36), **ALL)
    state = theirs.state_dict()
    if first == 'columns':
        state['pos_embed'] = torch.cat([state['pos_embed'][:, :1], sincos_positions((6, 6), 16)], dim=1)
    if half:
        state = {key: value.half() for key, value in state.items()}
        theirs.load_state_dict(state)
    assert f'({first} in the first half)' in load(vit, state)['pos_embed']
    assert torch.equal(vit.pos_embed, sincos_positions((6, 9), 16, first=first))
    again = backbone(name, (28, 24), **ALL)  # what was loaded once is not turned round when it is loaded again
    again.load_state_dict(vit.state_dict(), strict=True)
    for size in [(24, 36), (28, 24), (24, 24)]:
        images = torch.randn(2, 3, *size)
        positions = sincos_positions((size[0] // 4, size[1] // 4), 16, first=first)
        for model in (vit, again):
            assert_same_features(model, images, without_extra_tokens(theirs, images, positions))


def test_mmpretrain_puts_the_row_first():
    positions = build('mae').pos_embed[:, 1:]
    torch.testing.assert_close(positions, sincos_positions((6, 6), 16, first='rows'))
    assert not torch.allclose(positions, sincos_positions((6, 6), 16), atol=0.1)


# --- relative position bias -------------------------------------------------------------------------------------------


def test_shared_table_is_copied_to_layers():
    theirs, vit = build('beitv2'), backbone('beitv2', rel_pos_bias='layer', **ALL)
    fates = load(vit, theirs.state_dict())
    assert fates[TABLE] == "class token's 3 rows dropped, copied to each of 4 layers, kept at 6 x 6"
    tables = [value for key, value in convert(theirs.state_dict(), vit)[0].items() if key.endswith('bias_table')]
    assert len({table.data_ptr() for table in tables}) == 4, 'layers must not share memory'
    images = torch.randn(2, 3, 24, 24)
    assert_same_features(vit, images, without_extra_tokens(theirs, images))


def test_fine_tuned_beit_with_a_table_in_each_layer():
    config = dict(type='BEiTViT', use_rel_pos_bias=True, layer_scale_init_value=0.1, out_type='avg_featmap')
    theirs = build('beitv2', **config)
    vit = backbone('beitv2', rel_pos_bias='layer', **ALL)
    fates = load(vit, theirs.state_dict())
    assert fates['ln2.weight'].startswith('norm of the averaged tokens, dropped')
    assert fates['layers.2.attn.relative_position_index'].startswith('index of a table, dropped')
    images = torch.randn(2, 3, 24, 24)
    assert_same_features(vit, images, without_extra_tokens(theirs, images))
    with pytest.raises(ValueError, match=r"layers\.0\..* belongs to one layer, but .* set rel_pos_bias='layer'"):
        convert(theirs.state_dict(), backbone('beitv2'))

    average = backbone('beitv2', rel_pos_bias='layer', out_type='avg_featmap')
    assert 'ln2.weight' not in load(average, theirs.state_dict())


@pytest.mark.parametrize('kind', ['layer', 'shared'])
def test_tables_for_windows_of_their_own_size_stay_as_they_are(kind):
    theirs = build('beitv2')
    vit = backbone('beitv2', 48, rel_pos_bias=kind, window_size=6, global_layers=[-1], **ALL)
    fates = load(vit, theirs.state_dict())
    kept = theirs.state_dict()[TABLE][:-3]
    if kind == 'layer':
        assert fates[TABLE].endswith('copied to each of 4 layers, kept at 6 x 6 or resized 6 x 6 -> 12 x 12')
        assert all(torch.equal(layer.attn.relative_position_bias_table, kept) for layer in vit.layers[:3])
    else:
        assert fates[TABLE].endswith('kept at 6 x 6')
        assert torch.equal(vit.rel_pos_bias.relative_position_bias_table, kept)
    small = backbone('beitv2', 48, rel_pos_bias=kind, window_size=6, global_layers=[], **ALL)
    load(small, theirs.state_dict())
    images = torch.randn(1, 3, 24, 24)  # one window: the original
    assert_same_features(small, images, without_extra_tokens(theirs, images))


def test_added_tables_stay_missing():
    """CAE's recipe adds tables that its checkpoint does not have: strict loading must be told."""
    vit = backbone('cae', rel_pos_bias='layer')
    converted, _ = convert(build('cae').state_dict(), vit)
    missing = {f'layers.{i}.attn.relative_position_bias_table' for i in range(4)}
    assert vit.state_dict().keys() - converted.keys() == missing


# --- what is in the file and what is not ------------------------------------------------------------------------------


def algorithm(kind):
    """Build a whole pre-training algorithm of mmpretrain, tiny."""
    neck = dict(type='NonLinearNeck', in_channels=16, hid_channels=8, out_channels=8, num_layers=2, with_avg_pool=False)
    head = dict(type='MoCoV3Head', predictor={**neck, 'in_channels': 8}, loss=dict(type='CrossEntropyLoss'))
    if kind == 'cae':
        neck = dict(
            type='CAENeck',
            num_classes=5,
            embed_dims=16,
            regressor_depth=1,
            decoder_depth=1,
            num_heads=2,
            layer_scale_init_value=0.1,
        )
        head = dict(type='CAEHead', loss=dict(type='CAELoss', lambd=2))
    name = dict(mocov3='MoCoV3', cae='CAE')[kind]
    encoder = dict(arch=ARCH, img_size=24, patch_size=4, **CONFIGS[kind])
    model = MODELS.build(dict(type=name, backbone=encoder, neck=neck, head=head))
    model.backbone.init_weights()
    return model


@pytest.mark.parametrize(('kind', 'teacher'), [('mocov3', 'momentum_encoder.'), ('cae', 'teacher.')])
def test_whole_algorithms(kind, teacher):
    state = {key.removeprefix('backbone.'): value for key, value in algorithm(kind).state_dict().items()}
    assert any(key.startswith(teacher) for key in state)
    assert any(key.startswith('neck.') for key in state)
    fates = load(backbone(kind), state)
    for key in state:
        if key.startswith((teacher, 'neck.', 'head.')):
            assert fates[key].endswith('dropped'), key


def test_final_norm_is_dropped_where_the_backbone_has_none():
    fates = load(backbone('mae', final_norm=False), build('mae').state_dict())
    assert fates['ln1.weight'] == 'norm after the last layer, dropped: the backbone has final_norm=False'


@pytest.mark.parametrize('key', ['ln1.weight', 'layers.2.attn.q_bias', 'pos_embed', 'patch_embed.projection.weight'])
def test_what_is_missing_stays_missing(key):
    state = build('cae').state_dict()
    del state[key]
    vit = backbone('cae')
    converted, _ = convert(state, vit)
    missing = vit.state_dict().keys() - converted.keys()
    assert missing == {key.replace('q_bias', 'qkv.bias')}


def test_what_is_not_known_is_passed_on():
    state = {
        **build('maskfeat').state_dict(),
        'layers.0.attn.extra': torch.ones(1),
        'layers.9.ln1.bias': torch.ones(16),
    }
    converted, fates = convert(state, backbone('maskfeat'))
    assert {'layers.0.attn.extra', 'layers.9.ln1.bias'} <= converted.keys() - fates.keys()


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('options', [{}, dict(rel_pos_bias='layer'), dict(rel_pos_bias='shared')], ids=str)
def test_our_own_weights_need_no_change(method, options):
    saved, vit = (backbone(method, (24, 36), **options) for _ in range(2))
    with torch.no_grad():
        for parameter in saved.layers.parameters():
            parameter.add_(torch.randn_like(parameter))
    if method == 'cae' or not options or method == 'beitv2':
        assert load(vit, saved.state_dict()) == {}
        for key, value in vit.state_dict().items():
            assert torch.equal(value, saved.state_dict()[key]), key


def test_another_width_is_left_to_loading():
    state = build('deit', arch={**ARCH, 'embed_dims': 24}).state_dict()
    converted, _ = convert(state, backbone('deit'))
    assert converted['pos_embed'].shape == state['pos_embed'].shape


def test_the_documented_table_is_up_to_date(root):
    found = (root / 'docs' / 'peers.md').read_text()
    assert found == peers_table(), 'run python tests/peer_models.py'
