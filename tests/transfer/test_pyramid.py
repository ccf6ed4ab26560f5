"""Contract: strides 4, 8, 16 and 32 from any patch size and any image, with every value at its own place.

Map s has ceil(size / s) cells; its cell i describes the pixels around (i + 0.5) * s of the image.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from randsac_mm.transfer import ViTPyramid, pyramid_indices

STRIDES = (4, 8, 16, 32)
PLAIN = dict(type='BN')


def test_layers_of_the_recipes():
    layers = {12: [3, 5, 7, 11], 24: [7, 11, 15, 23]}  # BEiT's
    assert {depth: pyramid_indices('segmentation', depth) for depth in layers} == layers
    layers = {12: [2, 5, 8, 11], 24: [5, 11, 17, 23]}
    assert {depth: pyramid_indices('detection', depth) for depth in layers} == layers


@given(st.sampled_from(['segmentation', 'detection']), st.integers(4, 64))
def test_any_depth_gives_four_rising_layers_that_end_at_the_last(task, num_layers):
    indices = pyramid_indices(task, num_layers)
    assert len(indices) == 4
    assert indices == sorted(set(indices))
    assert indices[0] >= 0
    assert indices[-1] == num_layers - 1


def test_errors_of_the_indices_name_the_value_and_the_choices():
    with pytest.raises(ValueError, match=r"out_indices='upernet' must be one of \['detection', 'segment"):
        pyramid_indices('upernet', 12)
    with pytest.raises(ValueError, match='num_layers=3: a pyramid of four maps needs at least 4 layers'):
        pyramid_indices('detection', 3)


@settings(max_examples=40)
@given(st.integers(8, 16), st.integers(1, 7), st.integers(1, 7))
def test_every_map_covers_the_image_at_its_stride(patch_size, rows, columns):
    pyramid = ViTPyramid(2, patch_size, norm_cfg=PLAIN).eval()
    maps = pyramid([torch.zeros(3, 2, rows, columns)] * 4)
    for stride, scaled in zip(STRIDES, maps, strict=True):
        height, width = rows * patch_size, columns * patch_size
        assert scaled.shape == (3, 2, math.ceil(height / stride), math.ceil(width / stride))


def as_interpolation(pyramid: ViTPyramid) -> ViTPyramid:
    """Make transposed convolutions repeat each value, and leave norm and GELU out: geometry alone remains."""
    for module in pyramid.modules():
        if isinstance(module, nn.ConvTranspose2d):
            eye = torch.eye(module.in_channels)[:, :, None, None]
            module.weight.data = eye.expand(-1, -1, *module.kernel_size).clone()
            nn.init.zeros_(module.bias)
    for i, scale in enumerate(pyramid.scales):
        if isinstance(scale, nn.Sequential):
            pyramid.scales[i] = nn.Sequential(scale[0], scale[3])
    return pyramid


@pytest.mark.parametrize('patch_size', [8, 10, 11, 12, 13, 14, 16])
def test_a_value_stays_where_it_was_in_the_image(patch_size):
    """A map whose values are the pixel coordinates of its cells must have just these at any stride."""
    rows, columns = 23, 19
    y = (torch.arange(rows) + 0.5) * patch_size
    x = (torch.arange(columns) + 0.5) * patch_size
    coordinates = torch.stack(torch.meshgrid(y, x, indexing='ij'))[None]  # (1, 2, h, w) in pixels
    pyramid = as_interpolation(ViTPyramid(2, patch_size, norm_cfg=PLAIN))
    for stride, scaled in zip(STRIDES, pyramid([coordinates] * 4), strict=True):
        height, width = scaled.shape[2:]
        expected_y = ((torch.arange(height) + 0.5) * stride)[:, None].expand(height, width)
        expected_x = ((torch.arange(width) + 0.5) * stride)[None].expand(height, width)
        # A patch knows its place to half its side only, and pooling takes the largest of its cells.
        slack = patch_size / 2 + max(stride, patch_size) / 2
        inner = (slice(1, -1), slice(1, -1))
        assert (scaled[0, 0] - expected_y)[inner].abs().max() <= slack
        assert (scaled[0, 1] - expected_x)[inner].abs().max() <= slack
        # No drift: the error at the far end is that of the near end. A wrong stride would add up over 20 cells.
        drift = (scaled[0, 0] - expected_y)[inner].mean(1)
        assert (drift[: len(drift) // 2].mean() - drift[len(drift) // 2 :].mean()).abs() <= stride / 4 + patch_size / 8


def test_operations_are_those_of_the_recipe():
    """BEiT's and MAE's transfer for P = 16: two transposed convolutions, one, none, pooling."""
    torch.manual_seed(0)
    pyramid = ViTPyramid(3, 16, norm_cfg=PLAIN).eval()
    maps = [torch.randn(2, 3, 5, 7) for _ in STRIDES]
    first, norm, _, second = pyramid.scales[0]
    expected = (
        second(nn.functional.gelu(norm(first(maps[0])))),
        pyramid.scales[1](maps[1]),
        maps[2],
        nn.functional.max_pool2d(maps[3], 2, ceil_mode=True),
    )
    for made, wanted in zip(pyramid(maps), expected, strict=True):
        torch.testing.assert_close(made, wanted, rtol=0, atol=0)


@pytest.mark.parametrize('patch_size', [8, 14, 16])
def test_gradients_reach_every_map_and_every_parameter(patch_size):
    pyramid = ViTPyramid(3, patch_size, norm_cfg=PLAIN)
    maps = [torch.randn(2, 3, 4, 5, requires_grad=True) for _ in STRIDES]
    sum(scaled.square().sum() for scaled in pyramid(maps)).backward()
    assert all(x.grad.any() for x in maps)
    assert all(parameter.grad is not None for parameter in pyramid.parameters())


def test_the_norm_can_be_chosen():
    assert isinstance(ViTPyramid(32, norm_cfg=dict(type='GN', num_groups=4)).scales[0][1], nn.GroupNorm)
    assert isinstance(ViTPyramid(32).scales[0][1], nn.SyncBatchNorm)


@pytest.mark.parametrize('patch_size', [4, 32])
def test_impossible_patch_sizes_are_errors(patch_size):
    with pytest.raises(ValueError, match=f'patch_size={patch_size} must lie between 8 and 16'):
        ViTPyramid(8, patch_size=patch_size)


MAPS = [
    ([torch.zeros(1, 8, 2, 2)], '4 maps, got 1'),
    ([torch.zeros(1, 6, 2, 2)] * 4, r'\(1, 6, 2, 2\), but the pyramid expects \(B, 8, h, w\): set its embed_dims'),
    ([torch.zeros(1, 4, 8)] * 4, r"\(1, 4, 8\).*out_type='featmap'"),
]


@pytest.mark.parametrize(('maps', 'message'), MAPS, ids=['one', 'channels', 'tokens'])
def test_maps_that_do_not_fit_are_errors_that_name_the_fix(maps, message):
    with pytest.raises(ValueError, match=message):
        ViTPyramid(8, norm_cfg=PLAIN)(maps)
