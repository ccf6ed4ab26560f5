"""Contract: a loaded backbone computes what the saved one did, at every size, and hands its pre-training grid on."""

import copy
import itertools

import pytest
import torch
from builders import CHANNELS, ENCODER, PATCH, images, perturb
from mmpretrain.models import ImageClassifier

from randsac_mm.models import RandSACDecoder, RandSACHead, RandSACViT
from randsac_mm.models.positions import sincos_positions
from randsac_mm.segments import raster_layout
from randsac_mm.transfer import load_backbone
from randsac_mm.transfer.model_loading import load_model

DIMS = ENCODER['embed_dims']


def make(grid, **kwargs):
    size = (grid[0] * PATCH, grid[1] * PATCH)
    return perturb(RandSACViT(arch=ENCODER, img_size=size, patch_size=PATCH, in_channels=CHANNELS, **kwargs))


@torch.no_grad()
def assert_same(found, expected, grids=((9, 16), (12, 12), (5, 7), (1, 3))):
    """Two backbones have the same state and, bit for bit, the same features and hidden states at every size."""
    states = found.state_dict(), expected.state_dict()
    assert states[0].keys() == states[1].keys()
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]), name
    assert found.positions_grid == expected.positions_grid
    for grid in grids:
        x = images(grid, batch_size=2)
        layout = raster_layout(torch.arange(grid[0] * grid[1]).expand(2, -1) // 3)
        assert torch.equal(found(x)[0], expected(x)[0])
        assert torch.equal(found.encode(x, layout)[-1], expected.encode(x, layout)[-1])


@pytest.mark.parametrize(
    ('saved', 'mine'), [((9, 16), (12, 12)), ((4, 6), (6, 4)), ((2, 3), (5, 7)), ((5, 7), (5, 7))], ids=str
)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_features_are_those_of_the_checkpoint_at_every_size(saved, mine, dtype):
    original, model = make(saved), make(mine)
    state = {**original.state_dict(), 'pos_embed': original.pos_embed.to(dtype)}
    model.load_state_dict(state, strict=True)
    assert model.positions_grid == saved
    assert torch.equal(model.pos_embed, sincos_positions(saved, DIMS))
    assert_same(model, original)


def test_the_pre_training_grid_is_handed_on():
    original = make((9, 16))
    second, third = make((12, 12)), make((5, 7))
    parent = torch.nn.ModuleDict(dict(backbone=second))  # inside a larger model
    parent.load_state_dict({f'backbone.{name}': value for name, value in original.state_dict().items()})
    assert_same(second, original)
    third.load_state_dict(second.state_dict())
    assert third.state_dict()['pos_embed'].shape == (1, 144, DIMS)
    assert third.positions_grid == (9, 16)
    assert_same(third, original)
    assert_same(copy.deepcopy(third), original)


@torch.no_grad()
def test_extrapolated_positions_are_those_of_a_model_made_for_the_grid():
    loaded, made = make((9, 16), positions='extrapolated'), make((12, 12))
    made.load_state_dict({**loaded.state_dict(), 'pos_embed': made.pos_embed})
    x = images((12, 12))
    assert torch.equal(loaded(x)[0], made(x)[0])
    stretched = make((9, 16))
    stretched.load_state_dict(loaded.state_dict())
    assert not torch.allclose(stretched(x)[0], made(x)[0], atol=1e-2)
    x = images((9, 16))
    assert torch.equal(stretched(x)[0], loaded(x)[0])


def downstream(positions='stretched'):
    """Make a model of 12 x 12 tokens that was fine-tuned from a pre-training of 9 x 16."""
    backbone = make((12, 12), positions=positions)
    backbone.load_state_dict(make((9, 16)).state_dict())
    return ImageClassifier(backbone, head=dict(type='LinearClsHead', num_classes=5, in_channels=DIMS))


@torch.no_grad()
def test_a_whole_model_of_an_earlier_version_keeps_its_numbers(tmp_path):
    """It extrapolates positions as in its training, also when it is saved again; its backbone alone stretches them."""
    old = downstream('extrapolated')  # which are saved as they were before
    x = images((12, 12))
    paths = [tmp_path / f'{i}.pth' for i in range(3)]
    torch.save(dict(state_dict=old.state_dict()), paths[0])
    for path, after in itertools.pairwise(paths):
        model = downstream()
        load_model(model, path)
        assert torch.equal(model.backbone(x)[0], old.backbone(x)[0])
        torch.save(dict(state_dict=model.state_dict()), after)
    new = downstream()
    load_backbone(new.backbone, paths[2])
    assert not torch.allclose(new.backbone(x)[0], old.backbone(x)[0], atol=1e-2)
    torch.save(dict(state_dict=new.state_dict()), paths[0])
    load_model(model, paths[0])
    assert torch.equal(model.backbone(x)[0], new.backbone(x)[0])


def test_a_refused_checkpoint_leaves_positions_as_they_were(tmp_path):
    torch.save(downstream('extrapolated').backbone.state_dict(), tmp_path / 'a.pth')
    model = downstream()
    before = copy.deepcopy(model.backbone)
    with pytest.raises(ValueError, match='missing'):
        load_model(model, tmp_path / 'a.pth')
    assert_same(model.backbone, before)


def test_trainable_positions_begin_stretched_and_are_kept_when_trained():
    pretrained, model = make((9, 16)), make((12, 12), positions='trainable')
    model.load_state_dict(pretrained.state_dict())
    stretched = sincos_positions((12, 12), DIMS, trained_grid=(9, 16))
    assert torch.equal(model.pos_embed, stretched)
    model(images((12, 12)))[0].sum().backward()
    assert model.pos_embed.grad.abs().sum() > 0
    model.pos_embed.data += 0.002 * torch.randn_like(stretched)  # after few steps they are still close to fixed ones
    for positions in ('trainable', 'bicubic'):
        again = make((12, 12), positions=positions)
        again.load_state_dict(model.state_dict())
        assert_same(again, model)
    larger = make((24, 24), positions='trainable')
    larger.load_state_dict(model.state_dict() | {'pos_embed': torch.randn(1, 144, DIMS)})
    assert larger.positions_grid == (24, 24)
    assert not make((12, 12), positions='trainable', frozen_stages=0).pos_embed.requires_grad


def test_loading_does_not_write_to_the_checkpoint():
    state = make((9, 16)).bfloat16().state_dict()
    before = state['pos_embed'].clone()
    model = make((12, 12))
    model.load_state_dict(state)
    with torch.no_grad():
        model.pos_embed.zero_()
    assert torch.equal(state['pos_embed'], before)
    assert torch.equal(sincos_positions((9, 16), DIMS), make((9, 16)).pos_embed), 'the cache was written to'


FIXED = sincos_positions((5, 7), DIMS)
OTHER_POSITIONS = {
    'learned': torch.randn(1, 35, DIMS) * 0.02,
    'shifted': FIXED + 0.1,
    'class-token': torch.cat([torch.zeros(1, 1, DIMS), FIXED], dim=1),
    'other-width': sincos_positions((5, 7), 2 * DIMS),
    'two-axes': FIXED[0],
}


@pytest.mark.parametrize('positions', OTHER_POSITIONS.values(), ids=OTHER_POSITIONS)
def test_positions_that_are_not_fixed_are_refused(positions):
    state = make((5, 7)).state_dict() | {'pos_embed': positions}
    with pytest.raises(ValueError, match=f'pos_embed .*{DIMS}'):
        make((5, 7)).load_state_dict(state)
    if positions.shape != FIXED.shape:
        with pytest.raises(ValueError, match='pos_embed'):
            make((5, 8), positions='bicubic').load_state_dict({**state, 'pos_embed': positions[..., :-1, :]})


@pytest.mark.parametrize('inside', [False, True], ids=['alone', 'classifier'])
@pytest.mark.filterwarnings('ignore:init_weights of .* has been called')
def test_pretrained_init_loads_and_is_not_drawn_over(inside, tmp_path):
    original, path = make((9, 16), out_type='avg_featmap'), tmp_path / 'saved.pth'
    torch.save(dict(state_dict={f'backbone.{name}': value for name, value in original.state_dict().items()}), path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    backbone = model = make((12, 12), out_type='avg_featmap', init_cfg=init_cfg)
    if inside:
        model = ImageClassifier(backbone, head=dict(type='LinearClsHead', num_classes=5, in_channels=DIMS))
    for _ in range(2):
        model.init_weights()
        assert_same(backbone, original)


def test_initial_weights():
    """Xavier uniform for the matrix that each weight stands for, biases zero."""
    arch = dict(embed_dims=64, num_layers=1, num_heads=4, feedforward_channels=128)
    vit = RandSACViT(arch=arch, img_size=12, patch_size=3, in_channels=2)
    layer, cross = vit.layers[0], RandSACDecoder(1, 64, 4, encoder_dims=32, encoder_layers=2).layers[0]
    head = RandSACHead(embed_dims=64, patch_size=3, in_channels=2)
    for module, inputs, outputs in (
        (vit.patch_embed.projection, 18, 64),
        (layer.attn.qkv, 64, 64),
        (layer.attn.proj, 64, 64),
        (layer.ffn.layers[0][0], 64, 128),
        (layer.ffn.layers[1], 128, 64),
        (cross.self_attn.qkv, 64, 64),
        (cross.cross_attn.kv, 32, 64),
        (head.proj, 64, 18),
    ):
        limit = (6 / (inputs + outputs)) ** 0.5
        assert 0.95 * limit < module.weight.abs().max() <= limit
        assert module.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.1)
        assert not module.bias.any()
