"""Contract: blobs follow equation 1 of appendix A.2, nest, and are never fewer than two."""

from itertools import pairwise

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from randsac_mm.segments import BlobPartition

CPU = torch.device('cpu')
CLOSE_CALL = 1e-4  # by which float32 may decide otherwise than float64


def components(generator, batch_size, k, mean_range, std_range):
    """Draw means and standard deviations, (B, K, 2) each, in the order that a seed of a blob partition stands for."""
    mean, std = torch.rand(2, batch_size, 1, k, 2, generator=generator)[:, :, 0]
    return (
        (mean * (mean_range[1] - mean_range[0]) + mean_range[0]).tolist(),
        (std * (std_range[1] - std_range[0]) + std_range[0]).tolist(),
    )


@pytest.mark.parametrize('grid', [(5, 7), (1, 11), (3, 2)], ids=str)
@pytest.mark.parametrize(
    'ranges', [((-2.0, 2.0), (0.5, 1.5)), ((-1.0, 2.5), (0.1, 3.0)), ((3.0, 30.0), (0.5, 1.5))], ids=str
)
def test_blobs_against_loops(grid, ranges):
    """Where one blob would cover an image, the token that was the least decided goes to the runner-up."""
    batch_size, hierarchy = 50, (5, 3) if ranges[0][0] < 0 else (2,)
    ids = BlobPartition(hierarchy, *ranges)(batch_size, grid, torch.Generator().manual_seed(3), CPU)
    generator = torch.Generator().manual_seed(3)
    blobs, *groups = [components(generator, batch_size, k, *ranges) for k in hierarchy]
    points = reference.token_positions(*grid)
    split = 0
    for b, (fine, *coarser) in enumerate(ids.tolist()):
        wins = [reference.closest_component(point, blobs[0][b], blobs[1][b]) for point in points]
        moved = [t for t, (winner, margin) in enumerate(wins) if fine[t] != winner and margin > CLOSE_CALL]
        alone = len({winner for winner, _ in wins}) == 1
        assert len(moved) == alone
        if alone:
            assert wins[moved[0]][1] == pytest.approx(min(margin for _, margin in wins), rel=1e-3)
        split += alone
        for blob in set(fine) if coarser else ():
            members = [points[t] for t in range(len(points)) if fine[t] == blob]
            centroid = tuple(sum(axis) / len(members) for axis in zip(*members, strict=True))
            group, margin = reference.closest_component(centroid, groups[0][0][b], groups[0][1][b])
            found = {coarser[0][t] for t in range(len(points)) if fine[t] == blob}
            assert found == {group} or margin < CLOSE_CALL
    assert split > 5 or coarser


@given(
    grid=st.tuples(st.integers(1, 7), st.integers(2, 7)),
    levels=st.lists(st.integers(2, 9), min_size=1, max_size=3, unique=True),
    seed=st.integers(0, 2**32),
)
def test_blobs_nest_and_ids_stay_small(grid, levels, seed):
    tokens = grid[0] * grid[1]
    hierarchy = sorted({min(k, tokens) for k in levels}, reverse=True)
    ids = BlobPartition(hierarchy)(5, grid, torch.Generator().manual_seed(seed), CPU)
    assert ids.shape == (5, len(hierarchy), tokens)
    assert ids.dtype == torch.int64
    assert BlobPartition(hierarchy).tokens_per_segment(grid) is None
    for image in ids.tolist():
        assert len(set(image[0])) >= 2
        for level, k in zip(image, hierarchy, strict=True):
            assert all(0 <= blob < k for blob in level)
        for fine, coarse in pairwise(image):
            assert len(set(zip(fine, coarse, strict=True))) == len(set(fine))


@pytest.mark.parametrize(
    ('mean_range', 'std_range'),
    [
        ((50.0, 1000.0), (0.5, 1.5)),  # all Gaussians far outside, on one side
        ((0.0, 1e-6), (0.01, 10.0)),  # one Gaussian far wider than the other
        ((0.0, 0.0), (1.0, 1.0)),  # identical Gaussians: everything ties
        ((-2.0, 2.0), (1e-25, 2e-25)),  # distances overflow to infinity
    ],
)
@pytest.mark.parametrize('grid', [(1, 2), (4, 5)], ids=str)
def test_one_blob_that_would_swallow_everything_leaves_a_token(mean_range, std_range, grid):
    ids = BlobPartition(2, mean_range, std_range)(400, grid, torch.Generator().manual_seed(0), CPU)[:, 0]
    sizes = (ids == 0).sum(1)
    assert (sizes > 0).all()
    assert (sizes < ids.shape[1]).all()
    split_off = (sizes == 1) | (sizes == ids.shape[1] - 1)
    assert split_off.any()  # else the case would not be adversarial


def test_defaults_fill_most_blobs():
    """The figure of the docstring: of 11 components on an 8 x 8 grid 10.7 win a token on average."""
    ids = BlobPartition(11)(2000, (8, 8), torch.Generator().manual_seed(0), CPU)[:, 0]
    filled = torch.zeros(2000, 11).scatter(1, ids, 1.0).sum(1).mean()
    assert filled.item() == pytest.approx(10.7, abs=0.05)


@pytest.mark.parametrize('bad', [(2.0, -2.0), (0.0,), 2.0, (float('nan'), 1.0), (0.0, float('inf'))], ids=str)
def test_ranges_that_are_none(bad):
    for name in ('mean_range', 'std_range'):
        with pytest.raises(ValueError, match=f'{name}='):
            BlobPartition(3, **{name: bad})
    with pytest.raises(ValueError, match='std_range='):
        BlobPartition(3, std_range=(0.0, 1.0))
