"""Contract: half of the channels for the column, half for the row, the same numbers whatever came before."""

import pytest
import reference
import torch

from randsac_mm.models.positions import find_grid, sincos_positions

GRIDS = [(1, 1), (2, 3), (5, 3), (1, 12), (12, 12), (9, 16), (16, 9)]


@pytest.mark.parametrize('grid', GRIDS, ids=str)
@pytest.mark.parametrize('dims', [4, 12, 20])
def test_against_loops(grid, dims):
    table = sincos_positions(grid, dims)
    assert table.shape == (1, grid[0] * grid[1], dims)
    assert table.dtype == torch.float32
    torch.testing.assert_close(table[0].double(), reference.positions(*grid, dims), rtol=0, atol=1e-7)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert find_grid(table.to(dtype)) == grid


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
