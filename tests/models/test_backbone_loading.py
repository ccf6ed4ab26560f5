"""Contract: loading leaves fixed positions alone and refuses learned ones, and nothing draws weights again."""

import warnings

import pytest
import torch
from builders import CHANNELS, ENCODER, PATCH
from mmpretrain.models import ImageClassifier

from randsac_mm.models import RandSACViT
from randsac_mm.models.positions import sincos_positions

DIMS = ENCODER['embed_dims']


def make(grid, **kwargs):
    size = (grid[0] * PATCH, grid[1] * PATCH)
    return RandSACViT(arch=ENCODER, img_size=size, patch_size=PATCH, in_channels=CHANNELS, **kwargs)


def assert_same_weights(found, expected, but=('pos_embed',)):
    assert set(found) == set(expected)
    for name in found:
        if name not in but:
            assert torch.equal(found[name], expected[name]), name


@pytest.mark.parametrize(
    ('saved', 'mine'), [((9, 16), (12, 12)), ((4, 6), (6, 4)), ((2, 3), (5, 7)), ((5, 7), (5, 7))], ids=str
)
@pytest.mark.parametrize('half', [False, True], ids=['float32', 'bfloat16'])
def test_checkpoint_of_another_size_keeps_own_positions(saved, mine, half):
    state = make(saved).state_dict()
    if half:
        state = {name: value.bfloat16() for name, value in state.items()}
    model = make(mine)
    model.load_state_dict(state, strict=True)
    assert torch.equal(model.pos_embed, sincos_positions(mine, DIMS))
    assert_same_weights(model.state_dict(), {name: value.float() for name, value in state.items()})


def test_inside_a_larger_model():
    saved = make((9, 16)).state_dict()
    parent = torch.nn.ModuleDict(dict(backbone=make((12, 12))))
    parent.load_state_dict({f'backbone.{name}': value for name, value in saved.items()}, strict=True)
    assert torch.equal(parent['backbone'].pos_embed, sincos_positions((12, 12), DIMS))


def test_loading_does_not_write_to_the_checkpoint():
    state = make((9, 16)).state_dict()
    before = state['pos_embed'].clone()
    model = make((12, 12))
    model.load_state_dict(state)
    with torch.no_grad():
        model.pos_embed.zero_()
    assert torch.equal(state['pos_embed'], before)
    assert torch.equal(sincos_positions((12, 12), DIMS), make((12, 12)).pos_embed), 'the cache was written to'


@pytest.mark.parametrize(
    'positions',
    [
        lambda: torch.randn(1, 35, DIMS) * 0.02,
        lambda: sincos_positions((5, 7), DIMS) + 0.1,
        lambda: torch.cat([torch.zeros(1, 1, DIMS), sincos_positions((5, 7), DIMS)], dim=1),  # class token
        lambda: sincos_positions((5, 7), 2 * DIMS),
        lambda: sincos_positions((5, 7), DIMS)[0],  # no batch axis
    ],
    ids=['learned', 'shifted', 'with-class-token', 'other-width', 'two-axes'],
)
def test_positions_that_are_not_fixed_are_refused(positions):
    state = {**make((5, 7)).state_dict(), 'pos_embed': positions()}
    with pytest.raises(ValueError, match=r'pos_embed of the checkpoint, shape .* holds no fixed sine-cosine positions'):
        make((5, 7)).load_state_dict(state)


def test_missing_positions_are_reported_by_strict_loading():
    state = make((5, 7)).state_dict()
    del state['pos_embed']
    with pytest.raises(RuntimeError, match=r'Missing key.*\n?.*pos_embed'):
        make((5, 7)).load_state_dict(state, strict=True)


def save(path, model, prefix='backbone.'):
    torch.save(dict(state_dict={prefix + name: value for name, value in model.state_dict().items()}), path)
    return dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')


@pytest.fixture
def quiet():
    """Let mmengine warn that ``init_weights`` was called before; the tests call it twice on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='init_weights of .* has been called')
        yield


@pytest.mark.usefixtures('quiet')
def test_pretrained_init_loads_and_is_not_drawn_over(tmp_path):
    saved = make((9, 16))
    init_cfg = save(tmp_path / 'saved.pth', saved)
    model = make((12, 12), init_cfg=init_cfg)
    for _ in range(2):
        model.init_weights()
        assert_same_weights(model.state_dict(), saved.state_dict())
        assert torch.equal(model.pos_embed, sincos_positions((12, 12), DIMS))


def test_pretrained_init_inside_a_classifier(tmp_path):
    saved = make((9, 16), out_type='avg_featmap')
    model = ImageClassifier(
        backbone=dict(
            type='RandSACViT',
            arch=ENCODER,
            img_size=12 * PATCH,
            patch_size=PATCH,
            in_channels=CHANNELS,
            out_type='avg_featmap',
            init_cfg=save(tmp_path / 'saved.pth', saved),
        ),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=DIMS),
    )
    model.init_weights()
    assert_same_weights(model.backbone.state_dict(), saved.state_dict())
    assert model(torch.zeros(2, CHANNELS, 12 * PATCH, 12 * PATCH), mode='tensor').shape == (2, 5)


def test_init_weights_without_checkpoint_keeps_what_was_drawn():
    model = make((5, 7))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.init_weights()
    assert_same_weights(model.state_dict(), before, but=())


def test_initial_weights():
    """Xavier uniform for the matrix that each weight stands for, biases zero."""
    arch = dict(embed_dims=64, num_layers=1, num_heads=4, feedforward_channels=128)
    state = RandSACViT(arch=arch, img_size=12, patch_size=3, in_channels=2).state_dict()
    for name, fan in {
        'patch_embed.projection.weight': 18 + 64,
        'layers.0.attn.qkv.weight': 64 + 64,
        'layers.0.attn.proj.weight': 64 + 64,
        'layers.0.ffn.layers.0.0.weight': 64 + 128,
        'layers.0.ffn.layers.1.weight': 128 + 64,
    }.items():
        limit = (6 / fan) ** 0.5
        assert 0.95 * limit < state[name].abs().max() <= limit, name
        assert state[name].std().item() == pytest.approx(limit / 3**0.5, rel=0.1), name
    assert all((value == 0).all() for name, value in state.items() if name.endswith('bias'))
