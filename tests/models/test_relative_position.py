"""Contract: BEiT's relative position bias at any grid, and no matrix of N x N tokens where there is no bias."""

import pytest
import torch
import torch.nn.functional as F
from builders import CHANNELS, ENCODER, PATCH
from mmpretrain.models.backbones import BEiTViT
from mmpretrain.models.backbones.beit import RelativePositionBias as Theirs

from randsac_mm.models import RandSACViT
from randsac_mm.models.relative_position import relative_bias, zero_table
from randsac_mm.transfer.resize import resize_bias_table, resize_positions

pytestmark = pytest.mark.filterwarnings('ignore:torch.meshgrid')  # mmpretrain's BEiT
HEADS = ENCODER['num_heads']


def vit(grid=(5, 7), **kwargs):
    size = (grid[0] * PATCH, grid[1] * PATCH)
    options = dict(arch=ENCODER, img_size=size, patch_size=PATCH, in_channels=CHANNELS)
    return RandSACViT(**{**options, **kwargs}).eval()


def pixels(grid, batch_size=2):
    return torch.randn(batch_size, CHANNELS, grid[0] * PATCH, grid[1] * PATCH)


def fill(model):
    for name, parameter in model.named_parameters():
        if name.endswith('bias_table'):
            torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize('grid', [(1, 1), (1, 3), (3, 2), (5, 7)], ids=str)
def test_bias_by_loops(grid):
    rows, columns = grid
    table = torch.randn((2 * rows - 1) * (2 * columns - 1), 3)
    expected = torch.empty(3, rows * columns, rows * columns)
    for q in range(rows * columns):
        for k in range(rows * columns):
            dy, dx = q // columns - k // columns, q % columns - k % columns
            expected[:, q, k] = table[(dy + rows - 1) * (2 * columns - 1) + dx + columns - 1]
    assert torch.equal(relative_bias(table, grid, grid), expected)


def test_bias_equals_mmpretrain():
    theirs = Theirs((5, 7), 3)
    torch.nn.init.normal_(theirs.relative_position_bias_table)
    found = relative_bias(theirs.relative_position_bias_table[:-3], (5, 7), (5, 7))
    assert torch.equal(found, theirs()[:, 1:, 1:])


def test_resized_table():
    table = torch.randn(9 * 13, 3)
    assert resize_bias_table(table, (5, 7), (5, 7)) is table
    found = resize_bias_table(table, (5, 7), (8, 4))
    assert found.shape == (15 * 7, 3)
    for head in range(3):
        image = table[:, head].reshape(1, 1, 9, 13)
        expected = F.interpolate(image, size=(15, 7), mode='bicubic', align_corners=False)
        torch.testing.assert_close(found[:, head], expected.flatten())
    # What is the same in all directions stays so, and the offset 0 stays in the middle.
    mirrored = resize_bias_table(table.flip(0), (5, 7), (8, 4))
    torch.testing.assert_close(mirrored, found.flip(0))
    torch.testing.assert_close(resize_bias_table(torch.full((117, 2), 1.7), (5, 7), (8, 4)), torch.full((105, 2), 1.7))


def test_resized_positions_keep_their_axes():
    ramp = torch.arange(6.0)[:, None].expand(6, 4)  # grows downwards only
    positions = torch.stack([ramp, ramp * 0 + 2], dim=-1).reshape(1, 24, 2)
    found = resize_positions(positions, (6, 4), (12, 8)).reshape(12, 8, 2)
    torch.testing.assert_close(found[..., 0], found[:, :1, 0].expand(12, 8))
    assert (found[1:, 0, 0] > found[:-1, 0, 0]).all()
    torch.testing.assert_close(found[..., 1], torch.full((12, 8), 2.0))
    assert resize_positions(positions, (6, 4), (6, 4)) is positions
    assert resize_positions(positions.bfloat16(), (6, 4), (3, 3)).dtype == torch.bfloat16


@torch.no_grad()
@pytest.mark.parametrize('kind', ['layer', 'shared'])
def test_other_image_sizes_resize_the_table(kind):
    model, other = fill(vit((5, 7), rel_pos_bias=kind)), vit((6, 4), rel_pos_bias=kind)
    state = model.state_dict()
    for name in [name for name in state if name.endswith('bias_table')]:
        state[name] = resize_bias_table(state[name], (5, 7), (6, 4))
    state['pos_embed'] = other.pos_embed
    other.load_state_dict(state, strict=True)
    x = pixels((6, 4))
    torch.testing.assert_close(model(x)[0], other(x)[0])


@torch.no_grad()
@pytest.mark.parametrize('kind', ['layer', 'shared'])
def test_tables_start_at_zero_and_change_nothing(kind):
    plain, biased = vit(), vit(rel_pos_bias=kind)
    tables = set(biased.state_dict()) - set(plain.state_dict())
    layers = {f'layers.{i}.attn.relative_position_bias_table' for i in range(3)}
    assert tables == ({'rel_pos_bias.relative_position_bias_table'} if kind == 'shared' else layers)
    biased.load_state_dict(plain.state_dict(), strict=False)
    x = pixels((5, 7))
    torch.testing.assert_close(biased(x)[0], plain(x)[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(fill(biased)(x)[0], plain(x)[0], atol=1e-2)


@pytest.mark.parametrize('kind', ['layer', 'shared'])
def test_every_table_learns(kind):
    model = vit(rel_pos_bias=kind)
    model(pixels((4, 6)))[0].square().sum().backward()
    tables = [p for name, p in model.named_parameters() if name.endswith('bias_table')]
    assert len(tables) == (1 if kind == 'shared' else 3)
    assert all(table.grad.abs().sum() > 0 for table in tables)


def test_gradient_of_the_bias_equals_lookup():
    """Sliding windows and an index give the same gradient."""
    table = zero_table((3, 4), HEADS)
    weight = torch.randn(HEADS, 12, 12)
    (relative_bias(table, (3, 4), (3, 4)) * weight).sum().backward()
    theirs = Theirs((3, 4), HEADS)
    (theirs()[:, 1:, 1:] * weight).sum().backward()
    torch.testing.assert_close(table.grad, theirs.relative_position_bias_table.grad[:-3])


@pytest.mark.parametrize('method', ['randsac', 'beitv2', 'cae', 'maskfeat'])
@pytest.mark.parametrize('kind', [None, 'layer', 'shared'])
def test_layer_depths_equal_mmpretrain(kind, method):
    theirs = BEiTViT(ENCODER, 21, PATCH, in_channels=CHANNELS)
    mine = vit(rel_pos_bias=kind, method=method, out_type='avg_featmap')
    for name, _ in mine.named_parameters():
        assert mine.get_layer_depth(f'backbone.{name}', 'backbone.') == theirs.get_layer_depth(name), name
    if kind == 'layer':
        assert mine.get_layer_depth('layers.1.attn.relative_position_bias_table') == (2, 5)
    if method != 'beitv2':
        assert mine.get_layer_depth('pos_embed') == (0, 5)


def test_frozen_layers_share_no_table_that_learns():
    def trainable(**kwargs):
        model = vit(method='maskfeat', rel_pos_bias='shared', **kwargs).train()
        return {name for name, p in model.named_parameters() if p.requires_grad}

    ours = {'rel_pos_bias.relative_position_bias_table', 'pos_embed'}
    assert trainable() >= ours
    assert not trainable(frozen_stages=1) & ours
    assert trainable(frozen_stages=0) & ours == {'rel_pos_bias.relative_position_bias_table'}


@pytest.mark.parametrize(
    ('kwargs', 'key'),
    [
        (dict(rel_pos_bias='layer'), 'layers.0.attn.relative_position_bias_table'),
        (dict(rel_pos_bias='shared'), 'rel_pos_bias.relative_position_bias_table'),
        (dict(method='deit'), 'pos_embed'),
    ],
    ids=['layer', 'shared', 'learned-positions'],
)
def test_learned_tables_of_another_grid_are_refused(kwargs, key):
    with pytest.raises(ValueError, match=rf'{key} of the checkpoint has shape .* give it the img_size, patch_size and'):
        vit((5, 7), **kwargs).load_state_dict(vit((4, 6), **kwargs).state_dict(), strict=False)


# --- what is stored ---------------------------------------------------------------------------------------------------


def largest_saved(model, x):
    """Give the number of elements of the largest tensor that is stored for the backward pass."""
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)[0].sum().backward()
    return max(sizes)


def test_without_bias_nothing_of_all_pairs_is_stored():
    grid, pairs = (16, 18), (16 * 18) ** 2
    assert largest_saved(vit(grid).train(), pixels(grid, 1)) < pairs / 4
    assert largest_saved(vit(grid, window_size=3, global_layers=[1]).train(), pixels(grid, 1)) < pairs / 4
    assert largest_saved(vit(grid, window_size=5, global_layers=[1]).train(), pixels(grid, 1)) < pairs / 4, (
        'with padding'
    )
    assert largest_saved(vit(grid, rel_pos_bias='layer').train(), pixels(grid, 1)) >= pairs, 'the control'


@torch.no_grad()
@pytest.mark.parametrize('kwargs', [{}, dict(window_size=3, global_layers=[1])], ids=['plain', 'windows'])
def test_without_bias_the_kernel_gets_no_mask(kwargs, monkeypatch):
    masks = []
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F,
        'scaled_dot_product_attention',
        lambda *a, attn_mask: masks.append(attn_mask) or kernel(*a, attn_mask=attn_mask),
    )
    vit(**kwargs)(pixels((6, 9)))
    assert masks == [None] * 3
