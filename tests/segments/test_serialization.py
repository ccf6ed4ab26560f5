"""Contract: rank (B, N) is dense, constant on segments, whole on groups, the same for the same seed, and random."""

import math
from collections import Counter

import pytest
import reference
import torch
from builders import Operations
from hypothesis import given
from hypothesis import strategies as st

from randsac_mm.segments import (
    BlobPartition,
    PatchPartition,
    RandomSerialization,
    RasterSerialization,
    ShuffledPartition,
    SquarePartition,
    dense_rank,
)

CPU = torch.device('cpu')
GRID = (4, 8)
PARTITIONS = {
    'patch': PatchPartition(),
    'square': SquarePartition(8),
    'square-2': SquarePartition((8, 2)),
    'square-3': SquarePartition((32, 8, 2)),
    'blob': BlobPartition(7),
    'blob-2': BlobPartition((11, 5)),
    'blob-3': BlobPartition((11, 5, 2)),
    'shuffled-square': ShuffledPartition(SquarePartition((8, 2))),
    'shuffled-blob': ShuffledPartition(BlobPartition((11, 5))),
}
every_partition = pytest.mark.parametrize('partition', PARTITIONS.values(), ids=PARTITIONS)
both_orders = pytest.mark.parametrize('order', [RandomSerialization, RasterSerialization], ids=['random', 'raster'])


def draw(serialization, batch_size=5, grid=GRID, seed=0):
    return serialization(batch_size, grid, torch.Generator().manual_seed(seed), CPU)


@given(keys=st.lists(st.lists(st.integers(-(2**40), 2**40), min_size=7, max_size=7), min_size=1, max_size=4))
def test_dense_rank_against_counting(keys):
    for row in (torch.tensor(keys), torch.tensor(keys).remainder(200).to(torch.uint8)):
        rank = dense_rank(row)
        assert rank.dtype == torch.int64
        assert rank.tolist() == [reference.dense_ranks(numbers) for numbers in row.tolist()]


@both_orders
@every_partition
def test_ranks_are_dense_and_follow_segments_and_groups(order, partition):
    for seed in range(10):
        ids = draw(partition, seed=seed)  # the partition draws first, so this is what the serialization orders
        ranks = draw(order(partition), seed=seed)
        assert ranks.shape == (5, math.prod(GRID))
        assert ranks.dtype == torch.int64
        for levels, rank in zip(ids.tolist(), ranks.tolist(), strict=True):
            assert set(rank) == set(range(max(rank) + 1))
            assert max(rank) > 0
            assert len(set(zip(levels[0], rank, strict=True))) == len(set(rank)) == len(set(levels[0]))
            for level in levels:
                for group in set(level):
                    places = {r for r, i in zip(rank, level, strict=True) if i == group}
                    assert max(places) - min(places) + 1 == len(places), 'a group is interrupted by another'


@every_partition
def test_raster_order_against_loops(partition):
    ids, ranks = draw(partition), draw(RasterSerialization(partition))
    assert ranks.tolist() == [reference.raster_ranks(levels) for levels in ids.tolist()]


@every_partition
def test_seed_decides_and_images_differ(partition):
    serialization, state = RandomSerialization(partition), torch.get_rng_state()
    assert torch.equal(draw(serialization, seed=7), draw(serialization, seed=7))
    assert not torch.equal(draw(serialization, seed=7), draw(serialization, seed=8))
    first, *others = draw(serialization, batch_size=40).tolist()
    assert sum(rank == first for rank in others) < 20
    generator = torch.Generator().manual_seed(7)
    assert not torch.equal(serialization(5, GRID, generator, CPU), serialization(5, GRID, generator, CPU))
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone


@both_orders
@every_partition
def test_tokens_per_segment_is_what_is_drawn(order, partition):
    size = order(partition).tokens_per_segment(GRID)
    sizes = {n for rank in draw(order(partition)).tolist() for n in Counter(rank).values()}
    assert sizes == {size} if size is not None else len(sizes) > 1


# --- every admissible order is equally likely -------------------------------------------------------------------------

DRAWS = 20_000


def assert_uniform(counts, possibilities):
    """Accept if chi-square is within about 5 standard deviations of what a uniform distribution gives (fixed seed)."""
    assert len(counts) == possibilities, 'an order never came, or came that must not'
    expected = sum(counts.values()) / possibilities
    chi_square = sum((n - expected) ** 2 / expected for n in counts.values())
    freedom = possibilities - 1
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


class Given(SquarePartition):
    """Divide a row of tokens as a test says."""

    def __init__(self, *levels):
        self.levels = torch.tensor(levels)

    def __call__(self, batch_size, grid, generator, device):
        return self.levels.expand(batch_size, -1, -1)


@pytest.mark.parametrize(
    ('partition', 'grid', 'possibilities'),
    [
        (PatchPartition(), (2, 2), math.factorial(4)),
        (PatchPartition(), (1, 5), math.factorial(5)),
        (SquarePartition(4), (4, 4), math.factorial(4)),
        (SquarePartition((8, 2)), (2, 4), 2 * math.factorial(4) ** 2),
        (SquarePartition(3), (2, 6), math.factorial(3)),
        (Given([0, 1, 2, 3], [0, 0, 1, 1]), (1, 4), 8),
        (Given([0, 1, 2, 3], [0, 0, 0, 1]), (1, 4), 2 * 6),
        (Given([0, 0, 3, 1, 1], [0, 0, 1, 0, 0]), (1, 5), 2 * 2),
        (Given([0, 1, 2, 3, 4], [0, 0, 1, 1, 2], [0, 0, 0, 0, 1]), (1, 5), 2 * 2 * 2 * 2),
    ],
)
def test_orders_are_equally_likely(partition, grid, possibilities):
    ranks = draw(RandomSerialization(partition), DRAWS, grid)
    assert_uniform(Counter(map(tuple, ranks.tolist())), possibilities)


def test_blob_orders_are_equally_likely_given_the_partition():
    """However the tokens fell into three blobs, all 3! orders are as likely; two, if a blob is empty."""
    partition = BlobPartition(3)
    ids = draw(partition, DRAWS, (1, 4))[:, 0].tolist()
    by_partition = {}
    for blobs, rank in zip(ids, draw(RandomSerialization(partition), DRAWS, (1, 4)).tolist(), strict=True):
        shape = tuple(blobs.index(blob) for blob in blobs)  # labels do not matter, the division does
        by_partition.setdefault(shape, Counter())[tuple(rank)] += 1
    tested = {shape: counts for shape, counts in by_partition.items() if sum(counts.values()) > 500}
    assert {len(set(shape)) for shape in tested} == {2, 3}
    for shape, counts in tested.items():
        assert_uniform(counts, math.factorial(len(set(shape))))


def test_shuffled_divisions_are_equally_likely():
    ids = draw(ShuffledPartition(Given([0, 0, 1, 1, 1])), DRAWS, (1, 5))[:, 0]
    assert_uniform(Counter(map(tuple, ids.tolist())), math.comb(5, 2))


# --- vectorised over the batch ----------------------------------------------------------------------------------------


def operations(run):
    """Return all operators of a batch of 2 images, all of a batch of 13, and those that wait for a GPU."""
    lists = []
    for batch_size in (2, 13):
        with Operations() as recorded:
            run(batch_size)
        lists.append(recorded.names)
    return *lists, recorded.waits()


@both_orders
@every_partition
def test_no_loop_over_images_and_no_wait_for_the_device(order, partition):
    few, many, waits = operations(lambda batch_size: draw(order(partition), batch_size))
    assert len(few) > 3
    assert few == many
    assert not waits


def test_the_recorder_notices_loops_and_waits():
    few, many, waits = operations(lambda batch_size: [image.item() for image in torch.arange(batch_size)[:, None]])
    assert few != many
    assert waits


@pytest.mark.gpu
@every_partition
def test_on_a_gpu(partition):
    device = torch.device('cuda')
    rank = RandomSerialization(partition)(5, GRID, torch.Generator(device).manual_seed(0), device)
    assert rank.device.type == 'cuda'
    assert torch.equal(rank, dense_rank(rank))
