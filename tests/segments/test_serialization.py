"""Contract: rank (B, N) is dense, constant on segments, whole on groups, the same for the same seed, and random."""

import math
from collections import Counter

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

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
    assert dense_rank(torch.tensor(keys)).tolist() == [reference.dense_ranks(row) for row in keys]


@pytest.mark.parametrize('dtype', [torch.int32, torch.uint8, torch.int64], ids=str)
def test_dense_rank_takes_any_integers(dtype):
    rank = dense_rank(torch.tensor([[9, 4, 9, 6]], dtype=dtype))
    assert rank.dtype == torch.int64
    assert rank.tolist() == [[2, 0, 2, 1]]


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


def test_raster_order_by_hand():
    """Groups first, squares inside them, although the second square begins before the second row of the first group."""
    rank = draw(RasterSerialization(SquarePartition((8, 2))), batch_size=1, grid=(2, 4))
    assert rank.view(2, 4).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


@every_partition
def test_seed_decides_and_images_differ(partition):
    serialization = RandomSerialization(partition)
    assert torch.equal(draw(serialization, seed=7), draw(serialization, seed=7))
    assert not torch.equal(draw(serialization, seed=7), draw(serialization, seed=8))
    first, *others = draw(serialization, batch_size=40).tolist()
    assert sum(rank == first for rank in others) < 20
    generator = torch.Generator().manual_seed(7)
    assert not torch.equal(serialization(5, GRID, generator, CPU), serialization(5, GRID, generator, CPU))


@every_partition
def test_global_generator_is_left_alone(partition):
    before = torch.get_rng_state()
    draw(RandomSerialization(partition))
    assert torch.equal(torch.get_rng_state(), before)


@both_orders
@every_partition
def test_tokens_per_segment_is_what_is_drawn(order, partition):
    size = order(partition).tokens_per_segment(GRID)
    sizes = {n for rank in draw(order(partition)).tolist() for n in Counter(rank).values()}
    assert sizes == {size} if size is not None else len(sizes) > 1


@both_orders
def test_what_does_not_fit_is_an_error(order):
    with pytest.raises(ValueError, match='grid of 13 x 13'):
        draw(order(SquarePartition(16)), grid=(13, 13))
    with pytest.raises(ValueError, match='grid of 13 x 13'):
        order(SquarePartition(16)).tokens_per_segment((13, 13))


# --- every admissible order is equally likely -------------------------------------------------------------------------

DRAWS = 20_000


def assert_uniform(counts, possibilities):
    """Accept if chi-square is within about 5 standard deviations of what a uniform distribution gives (fixed seed)."""
    assert len(counts) == possibilities, 'an order never came, or came that must not'
    expected = sum(counts.values()) / possibilities
    chi_square = sum((n - expected) ** 2 / expected for n in counts.values())
    freedom = possibilities - 1
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize(
    ('partition', 'grid', 'possibilities'),
    [
        (PatchPartition(), (2, 2), math.factorial(4)),
        (PatchPartition(), (1, 5), math.factorial(5)),
        (SquarePartition(4), (4, 4), math.factorial(4)),
        (SquarePartition((8, 2)), (2, 4), 2 * math.factorial(4) ** 2),
        (SquarePartition(3), (2, 6), math.factorial(3)),
    ],
    ids=['4-patches', '5-patches', '4-squares', '8-squares-in-2', '3-squares'],
)
def test_orders_are_equally_likely(partition, grid, possibilities):
    ranks = draw(RandomSerialization(partition), DRAWS, grid)
    assert_uniform(Counter(map(tuple, ranks.tolist())), possibilities)


class Given(SquarePartition):
    """Divide a row of tokens as a test says."""

    def __init__(self, *levels):
        self.levels = torch.tensor(levels)

    def __call__(self, batch_size, grid, generator, device):
        return self.levels.expand(batch_size, -1, -1)


@pytest.mark.parametrize(
    ('levels', 'possibilities'),
    [
        (([0, 1, 2, 3], [0, 0, 1, 1]), 8),
        (([0, 1, 2, 3], [0, 0, 0, 1]), 2 * 6),
        (([0, 0, 3, 1, 1], [0, 0, 1, 0, 0]), 2 * 2),
        (([0, 1, 2, 3, 4], [0, 0, 1, 1, 2], [0, 0, 0, 0, 1]), 2 * 2 * 2 * 2),
    ],
    ids=['2+2', '3+1', 'unequal-sizes-and-gaps', 'three-levels'],
)
def test_hierarchical_orders_are_equally_likely(levels, possibilities):
    ranks = draw(RandomSerialization(Given(*levels)), DRAWS, (1, len(levels[0])))
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

SYNCHRONISES = ('_local_scalar_dense', 'nonzero', 'equal', 'is_nonzero', 'masked_select', 'unique')


class Operations(TorchDispatchMode):
    """List the names of all tensor operations."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@both_orders
@every_partition
def test_no_loop_over_images_and_no_wait_for_the_device(order, partition):
    lists = []
    for batch_size in (2, 13):
        with Operations() as operations:
            draw(order(partition), batch_size)
        lists.append(operations.names)
    assert len(lists[0]) > 3
    assert lists[0] == lists[1]
    assert not set(lists[0]).intersection(SYNCHRONISES)


def test_the_operation_counter_would_notice():
    lists = []
    for batch_size in (2, 13):
        with Operations() as operations:
            for image in torch.arange(batch_size)[:, None]:
                image.item()
        lists.append(operations.names)
    assert lists[0] != lists[1]
    assert '_local_scalar_dense' in lists[0]


@pytest.mark.gpu
@every_partition
def test_on_a_gpu(partition):
    device = torch.device('cuda')
    rank = RandomSerialization(partition)(5, GRID, torch.Generator(device).manual_seed(0), device)
    assert rank.device.type == 'cuda'
    assert torch.equal(rank, dense_rank(rank))
