"""Contract: half of the channels for the column, half for the row, the same numbers whatever came before.

Positions of another grid are those of the trained one at the places of its tokens' centres; either grid can be found.
"""

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import avg_pool2d

from randsac_mm.models.positions import find_grids, resize_positions, sincos_positions

GRIDS = [(1, 1), (2, 3), (5, 3), (1, 12), (12, 12), (9, 16), (16, 9)]


@pytest.mark.parametrize('grid', GRIDS, ids=str)
@pytest.mark.parametrize('dims', [4, 12, 20])
def test_against_loops(grid, dims):
    table = sincos_positions(grid, dims)
    assert table.shape == (1, grid[0] * grid[1], dims)
    assert table.dtype == torch.float32
    torch.testing.assert_close(table[0].double(), reference.positions(*grid, dims), rtol=0, atol=1e-7)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert find_grids(table.to(dtype)) == (grid, grid)


@pytest.mark.parametrize('dims', [6, 2, 13])
def test_width_that_two_axes_cannot_share(dims):
    with pytest.raises(ValueError, match=f'embed_dims={dims} .* 4'):
        sincos_positions((2, 3), dims)


def test_computed_under_another_default_device_and_mode():
    """The table is cached: computed on the meta device, in autocast and inference mode, it serves training as well."""
    with torch.device('meta'), torch.autocast('cpu', dtype=torch.bfloat16), torch.inference_mode():
        sincos_positions((3, 23), 8)  # no other test has this grid
    table = sincos_positions((3, 23), 8)
    assert (table.device.type, table.dtype) == ('cpu', torch.float32)
    weight = torch.ones(8, requires_grad=True)
    (table[0, torch.tensor([[1, 2]])] * weight).sum().backward()
    assert weight.grad.abs().sum() > 0


SIDES = st.integers(1, 17)


@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from([12, 20]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_stretched_against_loops(h, w, rows, columns, dims, dtype):
    """The image's coordinates stay: those of a token's centre in units of the trained grid's tokens."""
    table = sincos_positions((h, w), dims, trained_grid=(rows, columns))
    expected = reference.positions(h, w, dims, (rows, columns))
    torch.testing.assert_close(table[0].double(), expected, rtol=0, atol=1e-7)
    assert find_grids(table.to(dtype)) == ((h, w), (rows, columns))


def test_the_trained_grid_is_not_changed_by_a_bit():
    for grid in [*GRIDS, (24, 63), (7, 49)]:
        assert torch.equal(sincos_positions(grid, 12, trained_grid=grid), sincos_positions(grid, 12))


def test_stretched_and_bicubic_positions_are_close_inside_the_image():
    """Both keep the place of a token's centre; only at the border interpolation has nothing to go by."""
    trained, grid, dims = (12, 9), (24, 27), 64
    stretched = sincos_positions(grid, dims, trained_grid=trained)
    bicubic = resize_positions(sincos_positions(trained, dims), trained, grid)
    inside = (stretched - bicubic).abs().view(*grid, dims)[4:-4, 6:-6]
    extrapolated = (stretched - sincos_positions(grid, dims)).abs().view(*grid, dims)[4:-4, 6:-6]
    assert inside.max() < 0.05
    assert extrapolated.max() > 1


def test_bicubic_leaves_constants_and_averages():
    table = torch.randn(1, 15, 8)
    assert torch.equal(resize_positions(table, (3, 5), (3, 5)), table)
    resized = resize_positions(torch.full((1, 15, 8), 2.0), (3, 5), (4, 7))
    torch.testing.assert_close(resized, torch.full((1, 28, 8), 2.0))
    smooth = sincos_positions((6, 10), 8, trained_grid=(2, 2))
    halved = avg_pool2d(smooth.view(1, 6, 10, 8).permute(0, 3, 1, 2), 2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(resize_positions(smooth, (6, 10), (3, 5)), halved, rtol=0, atol=0.05)
