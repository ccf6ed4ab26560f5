"""Contract: half of the channels for the column, half for the row, the same numbers whatever came before."""

import pytest
import reference
import torch

from randsac_mm.models.positions import _make, sincos_positions


@pytest.mark.parametrize('grid', [(1, 1), (2, 3), (5, 3), (12, 12)], ids=str)
@pytest.mark.parametrize('dims', [4, 12, 20])
def test_against_loops(grid, dims):
    table = sincos_positions(grid, dims)
    assert table.shape == (1, grid[0] * grid[1], dims)
    assert table.dtype == torch.float32
    torch.testing.assert_close(table[0].double(), reference.positions(*grid, dims), rtol=0, atol=1e-7)


def test_by_hand():
    table = sincos_positions((2, 2), 4)[0]
    sine, cosine = torch.tensor(1.0).sin(), torch.tensor(1.0).cos()
    expected = [[0, 1, 0, 1], [sine, cosine, 0, 1], [0, 1, sine, cosine], [sine, cosine, sine, cosine]]
    torch.testing.assert_close(table, torch.tensor(expected))


@pytest.mark.parametrize('dims', [6, 2, 13])
def test_width_that_two_axes_cannot_share(dims):
    with pytest.raises(ValueError, match=f'embed_dims={dims} must be a multiple of 4'):
        sincos_positions((2, 3), dims)


def test_made_under_another_default_device():
    """What is made while parameters are laid out on the meta device is real, and so is what the cache keeps of it."""
    _make.cache_clear()
    with torch.device('meta'):
        sincos_positions((2, 7), 8)
    assert sincos_positions((2, 7), 8).device.type == 'cpu'


def test_made_in_any_mode():
    """The table is cached: made inside autocast and inference mode it serves training all the same."""
    _make.cache_clear()
    with torch.autocast('cpu', dtype=torch.bfloat16), torch.inference_mode():
        table = sincos_positions((2, 7), 8)
    assert table.dtype == torch.float32
    weight = torch.ones(8, requires_grad=True)
    (sincos_positions((2, 7), 8)[0, torch.tensor([[1, 2]])] * weight).sum().backward()
    assert weight.grad.abs().sum() > 0
