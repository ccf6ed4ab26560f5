"""Contract: a layer with windows is the plain layer run on each window's own tokens alone, padding or not."""

import pytest
import torch
from builders import CHANNELS, ENCODER, PATCH

from randsac_mm.models import RandSACViT
from randsac_mm.models.encoder_layer import EncoderLayer
from randsac_mm.models.windows import merge, padding_bias, partition, window_counts
from randsac_mm.segments import raster_layout

DIMS = ENCODER['embed_dims']
DEEP = {**ENCODER, 'num_layers': 5}
GRIDS = {
    'divides': ((6, 9), 3),
    'right': ((6, 7), 3),
    'bottom': ((5, 4), 2),
    'both': ((7, 11), 5),
    'larger': ((2, 3), 5),
}


def vit(grid=(7, 5), **kwargs):
    size = (grid[0] * PATCH, grid[1] * PATCH)
    options = dict(arch=DEEP, img_size=size, patch_size=PATCH, in_channels=CHANNELS, out_type='raw')
    return randomize(RandSACViT(**{**options, **kwargs})).eval()


def randomize(module):
    for name, parameter in module.named_parameters():
        if name != 'pos_embed':
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return module


def pixels(grid, batch_size=3):
    return torch.randn(batch_size, CHANNELS, grid[0] * PATCH, grid[1] * PATCH)


def members(grid, size):
    """List the tokens of each window, in raster order, by loops."""
    windows = {}
    for y in range(grid[0]):
        for x in range(grid[1]):
            windows.setdefault((y // size, x // size), []).append(y * grid[1] + x)
    return list(windows.values())


def table_bias(table, size, grid, tokens):
    """Look a table up for every pair of tokens of a window, by loops: (h, n, n)."""
    bias = torch.empty(table.shape[1], len(tokens), len(tokens), dtype=table.dtype)
    for i, query in enumerate(tokens):
        for j, key in enumerate(tokens):
            dy, dx = query // grid[1] - key // grid[1], query % grid[1] - key % grid[1]
            bias[:, i, j] = table[(dy + size - 1) * (2 * size - 1) + dx + size - 1]
    return bias


def windowed_reference(layer, x, grid, size):
    """Run a layer on each window by itself, without any padding."""
    out = torch.full_like(x, torch.nan)
    table, window_size = layer.attn.relative_position_bias_table, layer.window_size
    layer.window_size, layer.attn.bias_grid = 0, None
    for tokens in members(grid, size):
        bias = None if table is None else table_bias(table, size, grid, tokens)[None]
        out[:, tokens] = layer(x[:, tokens], bias)
    layer.window_size, layer.attn.bias_grid = window_size, None if table is None else (size, size)
    return out


@pytest.mark.parametrize(('grid', 'size'), GRIDS.values(), ids=GRIDS)
def test_partition_by_loops(grid, size):
    x = torch.arange(2 * grid[0] * grid[1] * 3.0).reshape(2, -1, 3)
    down, across = window_counts(grid, size)
    expected = torch.zeros(2, down, across, size, size, 3)
    for y in range(grid[0]):
        for column in range(grid[1]):
            place = (slice(None), y // size, column // size, y % size, column % size)
            expected[place] = x[:, y * grid[1] + column]
    windows = partition(x, grid, size)
    assert torch.equal(windows, expected.reshape(-1, size * size, 3))
    assert torch.equal(merge(windows, grid, size), x)
    bias = padding_bias(grid, size, 2, x)
    real = partition(torch.ones(2, grid[0] * grid[1], 1), grid, size)[:, None, None, :, 0].bool()
    assert (bias is None) == bool(real.all())
    if bias is not None:
        assert torch.equal(bias, torch.zeros(real.shape).masked_fill(~real, -torch.inf))


@torch.no_grad()
@pytest.mark.parametrize('biased', [False, True], ids=['plain', 'relative-bias'])
@pytest.mark.parametrize(('grid', 'size'), GRIDS.values(), ids=GRIDS)
def test_layer_equals_each_window_alone(grid, size, biased):
    options = dict(window_size=size, bias_grid=(size, size) if biased else None)
    layer = randomize(EncoderLayer(DIMS, 3, 17, **options)).double().eval()
    x = torch.randn(3, grid[0] * grid[1], DIMS, dtype=torch.float64)
    found = layer(x, padding_bias(grid, size, 3, x), grid)
    torch.testing.assert_close(found, windowed_reference(layer, x, grid, size))
    if size * size < grid[0] * grid[1]:
        layer.window_size, layer.attn.bias_grid = 0, None
        assert not torch.allclose(found, layer(x), atol=0.1), 'windows must make a difference here'


@torch.no_grad()
@pytest.mark.parametrize('kind', [None, 'layer', 'shared'])
def test_backbone_equals_its_layers_one_by_one(kind):
    grid, size = (7, 5), 3
    model = vit(grid, window_size=size, global_layers=[1, -1], rel_pos_bias=kind, out_indices=[0, 1, 2, 3, 4]).double()
    assert [layer.window_size for layer in model.layers] == [3, 0, 3, 3, 0]
    images = pixels(grid).double()
    shared = model.rel_pos_bias
    x = model.embed(images)
    for i, (layer, found) in enumerate(zip(model.layers, model(images), strict=True)):
        if i in (1, 4):
            x = layer(x, None if shared is None else shared(grid), grid)
        else:
            if shared is not None:  # the reference reads the table at the layer
                layer.attn.relative_position_bias_table = shared.relative_position_bias_table
            x = windowed_reference(layer, x, grid, size)
        torch.testing.assert_close(found, model.ln1(x) if i == 4 else x)


def influence(model, images, place):
    """Tell which patches (h, w) of an image change what comes out at one place."""
    images = images.requires_grad_()
    model(images)[0][0, place].sum().backward()
    change = images.grad[0].abs().sum(0).unflatten(1, (-1, PATCH)).unflatten(0, (-1, PATCH)).sum((1, 3))
    return change > 0


def test_a_window_sees_nothing_of_others():
    grid, size = (7, 5), 3
    for place, rows, columns in [(0, slice(0, 3), slice(0, 3)), (34, slice(6, 7), slice(3, 5))]:
        expected = torch.zeros(grid, dtype=torch.bool)
        expected[rows, columns] = True
        assert torch.equal(influence(vit(window_size=size, global_layers=[]), pixels(grid), place), expected)
        assert influence(vit(window_size=size, global_layers=[2]), pixels(grid), place).all()
        assert influence(vit(), pixels(grid), place).all()


def test_gradients_are_finite_and_padding_gets_none():
    layer = randomize(EncoderLayer(DIMS, 3, 17, window_size=3))
    x = torch.randn(2, 20, DIMS, requires_grad=True)
    layer(x, padding_bias((5, 4), 3, 2, x), (5, 4)).square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in layer.parameters())
    found = {name: p.grad.clone() for name, p in layer.named_parameters()}
    layer.zero_grad()
    windowed_reference(layer, x, (5, 4), 3).square().sum().backward()
    for name, p in layer.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_windows_larger_than_the_image_are_global():
    plain, windowed = vit(), vit(window_size=8, global_layers=[])
    windowed.load_state_dict(plain.state_dict(), strict=True)
    for grid in [(7, 5), (1, 2), (8, 8)]:
        x = pixels(grid)
        torch.testing.assert_close(windowed(x)[0], plain(x)[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(windowed(pixels((9, 4)))[0], plain(pixels((9, 4)))[0])


@torch.no_grad()
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16], ids=str)
def test_other_number_types(dtype):
    out = vit(window_size=3, rel_pos_bias='shared').to(dtype)(pixels((4, 5)).to(dtype))[0]
    assert out.dtype == dtype
    assert out.isfinite().all()


def test_autocast():
    model = vit(window_size=3, rel_pos_bias='layer').train()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = model(pixels((4, 5)))[0]
    out.float().sum().backward()
    assert model.layers[0].attn.relative_position_bias_table.grad.isfinite().all()


def test_vit_b_keeps_four_global_layers():
    with torch.device('meta'):
        model = RandSACViT(arch='base', window_size=14)
    assert [i for i, layer in enumerate(model.layers) if not layer.window_size] == [2, 5, 8, 11]
    with torch.device('meta'):
        assert model.state_dict().keys() == RandSACViT(arch='base').state_dict().keys()


def test_pre_training_knows_no_windows():
    layout = raster_layout(torch.arange(35).expand(3, -1))
    for options in [dict(window_size=3), dict(rel_pos_bias='layer'), dict(rel_pos_bias='shared'), dict(method='mae')]:
        with pytest.raises(ValueError, match=r"is for transfer: pre-train the plain ViT, with method='randsac'"):
            vit(**options).encode(pixels((7, 5)), layout)
    assert len(vit().encode(pixels((7, 5)), layout)) == 5


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(window_size=-1), r'window_size=-1 must be a number of tokens, or 0'),
        (dict(window_size=2.5), r'window_size=2\.5 must be a number of tokens'),
        (dict(global_layers=[0]), r'global_layers=\[0\] chooses the layers without windows, but there are no windows'),
        (dict(window_size=2, global_layers=[5]), r'global_layers=\[5\] names layer 5, but there are only 5 layers'),
        (dict(arch=ENCODER, window_size=2), r'num_layers=3 are too few for four global ones: name them in global_lay'),
        (dict(rel_pos_bias='each'), r"rel_pos_bias='each' must be 'layer', 'shared' or None"),
        (dict(method='simclr'), r"method='simclr' is unknown\. Choose one of \['beitv2', 'cae', 'deit'"),
    ],
    ids=str,
)
def test_options_that_are_not_possible(kwargs, message):
    with pytest.raises(ValueError, match=message):
        vit(**kwargs)
