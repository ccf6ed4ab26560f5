"""Contract: a partition returns ids (B, L, N) whose levels nest; squares are squares; the impossible is refused."""

import math
from itertools import pairwise

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from randsac_mm.segments import BlobPartition, PatchPartition, ShuffledPartition, SquarePartition

CPU = torch.device('cpu')


def draw(partition, grid, batch_size=3, seed=0):
    return partition(batch_size, grid, torch.Generator().manual_seed(seed), CPU)


def assert_nested(ids):
    """Each id of a level lies inside one id of the level above it."""
    for image in ids.tolist():
        for fine, coarse in pairwise(image):
            assert len(set(zip(fine, coarse, strict=True))) == len(set(fine))


@st.composite
def square_cases(draw_from):
    """Draw the tiles of the coarsest level, then how often each level is divided again."""
    tiles = draw_from(st.tuples(st.integers(1, 5), st.integers(1, 5)).filter(lambda t: math.prod(t) > 1))
    divisions = draw_from(st.lists(st.integers(2, 3), max_size=2))
    side = draw_from(st.integers(1, 3))
    hierarchy, sides = [math.prod(tiles)], [side]
    for f in divisions:
        hierarchy.insert(0, hierarchy[0] * f * f)
        sides = [side, *[s * f for s in sides]]
    grid = (tiles[0] * sides[-1], tiles[1] * sides[-1])
    return grid, tuple(hierarchy), tuple(sides)


@given(case=square_cases())
def test_squares_are_exactly_squares(case):
    grid, hierarchy, sides = case
    partition = SquarePartition(hierarchy)
    ids = draw(partition, grid)
    assert ids.shape == (3, len(hierarchy), math.prod(grid))
    assert ids.dtype == torch.int64
    assert_nested(ids)
    assert partition.tokens_per_segment(grid) == sides[0] ** 2
    for level, (k, side) in enumerate(zip(hierarchy, sides, strict=True)):
        squares = reference.square_ids(*grid, side)
        assert ids[:, level].tolist() == [squares] * 3
        places = {}
        for token, square in enumerate(squares):
            places.setdefault(square, []).append((token // grid[1], token % grid[1]))
        assert len(places) == k
        for cells in places.values():
            top, left = min(cells)
            assert sorted(cells) == [(top + y, left + x) for y in range(side) for x in range(side)]


@given(grid=st.tuples(st.integers(1, 7), st.integers(1, 7)).filter(lambda g: math.prod(g) > 1))
def test_patches_are_single_tokens(grid):
    assert draw(PatchPartition(), grid).tolist() == [[list(range(math.prod(grid)))]] * 3
    assert PatchPartition().tokens_per_segment(grid) == 1


@pytest.mark.parametrize(
    'inner', [SquarePartition((24, 6)), BlobPartition((7, 3)), PatchPartition()], ids=['square', 'blob', 'patch']
)
def test_shuffled_keeps_sizes_and_nesting(inner):
    grid = (4, 6)
    plain, shuffled = draw(inner, grid, 50), draw(ShuffledPartition(inner), grid, 50)
    assert_nested(shuffled)
    assert ShuffledPartition(inner).tokens_per_segment(grid) == inner.tokens_per_segment(grid)
    # The inner partition draws first, so the same seed draws the same segments: each keeps every one of its tokens.
    pairs = [sorted(zip(*image, strict=True)) for image in plain.tolist()]
    assert [sorted(zip(*image, strict=True)) for image in shuffled.tolist()] == pairs


def test_shuffled_is_scattered():
    """Neighbours share a segment no more often than any two tokens do."""
    ids = draw(ShuffledPartition(SquarePartition(4)), (8, 8), 500)[:, 0].view(500, 8, 8)
    neighbours = (ids[:, :, 1:] == ids[:, :, :-1]).float().mean()
    assert neighbours.item() == pytest.approx(15 / 63, abs=0.01)  # coherent squares: 6/7
    assert (ids[0] != ids[1]).any()


# --- what is refused --------------------------------------------------------------------------------------------------

NO_NUMBERS = ['16', 16.0, (16, 4.0), (), None, True, (True, 2), {4}, (16, '4')]
ONE_SEGMENT = [1, 0, -3, (16, 1), (1,)]
NOT_FALLING = [(4, 16), (4, 4), (64, 4, 16)]


@pytest.mark.parametrize('bad', [*NO_NUMBERS, *ONE_SEGMENT, *NOT_FALLING], ids=repr)
@pytest.mark.parametrize('partition', [SquarePartition, BlobPartition])
def test_hierarchies_that_are_none(partition, bad):
    with pytest.raises(ValueError, match='hierarchy='):
        partition(bad)


@pytest.mark.parametrize(
    ('grid', 'inner', 'message'),
    [
        ((13, 13), SquarePartition(16), r'13 x 13 .* 16 .*\[169\]'),
        ((13, 13), SquarePartition((169, 13)), r' 13 .*\[169\]'),
        ((12, 12), SquarePartition(5), r'\[4, 9, 16, 36, 144\]'),
        ((6, 10), SquarePartition(16), r'6 x 10 .*\[15, 60\]'),
        ((12, 12), SquarePartition((16, 9)), r'\(16, 9\) .*4 x 4 .* 3 x 3.*\[4\]'),
        ((6, 18), SquarePartition((27, 12)), r'3 x 3 .* 2 x 2.*\[3\]'),
        ((30, 30), SquarePartition((9, 4)), '15 x 15 .* 10 x 10'),
        ((4, 4), SquarePartition(64), r'64 .*\[4, 16\]'),
        ((2, 3), BlobPartition((7, 3)), r'\(7, 3\) .* 6'),
    ],
)
@pytest.mark.parametrize('wrap', [lambda inner: inner, ShuffledPartition], ids=['plain', 'shuffled'])
def test_segments_that_do_not_fit(grid, inner, message, wrap):
    partition = wrap(inner)
    for run in (partition.check, lambda grid: draw(partition, grid)):
        with pytest.raises(ValueError, match=message):
            run(grid)
    if isinstance(inner, SquarePartition):
        with pytest.raises(ValueError, match=message):
            partition.tokens_per_segment(grid)


@pytest.mark.parametrize('grid', [(1, 1), (0, 4), (4, 0), (-2, -3)], ids=str)
def test_grids_with_nothing_to_predict(grid):
    for partition in (PatchPartition(), SquarePartition(2), BlobPartition(2), ShuffledPartition(PatchPartition())):
        with pytest.raises(ValueError, match=f'{grid[0]} x {grid[1]} .* 2'):
            partition.check(grid)
