"""Contract: both layouts describe one relation, "this token may read that one", among tokens whose result is read."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from randsac_mm.segments import (
    BlobPartition,
    PatchPartition,
    RandomSerialization,
    RasterSerialization,
    ShuffledPartition,
    SquarePartition,
    dense_rank,
    raster_layout,
    sorted_layout,
    split_by_length,
)

GRID = (4, 6)
PARTITIONS = {
    'patch': PatchPartition(),
    'square': SquarePartition(6),
    'square-2': SquarePartition((24, 6)),
    'blob': BlobPartition(7),
    'blob-2': BlobPartition((7, 3)),
    'shuffled': ShuffledPartition(SquarePartition(6)),
}


def relations(layout, image, rank):
    """List who reads whom: in the encoder, in the decoder and across, among tokens that matter for a prediction."""
    source, target = layout.source[image].tolist(), layout.target[image].tolist()
    predicted = {t for t, p in zip(target, layout.predicted[image].tolist(), strict=True) if p}
    shared = image if len(layout.source_mask.query_rank) > 1 else 0
    kept = {n for n in source if rank[n] < max(rank)}  # nobody may read the last segment
    parts = (
        (layout.source_mask, source, source, kept),
        (layout.target_mask, target, target, predicted),
        (layout.memory_mask, target, source, predicted),
    )
    return [
        {(queries[q], keys[k]) for q, k in mask.dense()[shared].nonzero().tolist() if queries[q] in asking}
        for mask, queries, keys, asking in parts
    ]


def rules(rank):
    tokens = range(len(rank))
    last = max(rank)
    return [
        {(q, k) for q in tokens for k in tokens if rank[k] <= rank[q] < last},
        {(q, k) for q in tokens for k in tokens if 0 < rank[k] <= rank[q]},
        {(q, k) for q in tokens for k in tokens if rank[k] < rank[q]},
    ]


@pytest.mark.parametrize('fast', [True, False], ids=['with-size', 'without-size'])
@pytest.mark.parametrize('partition', PARTITIONS.values(), ids=PARTITIONS)
def test_layouts_describe_the_same_relation(partition, fast):
    for seed in range(3):
        rank = RandomSerialization(partition)(4, GRID, torch.Generator().manual_seed(seed), torch.device('cpu'))
        size = partition.tokens_per_segment(GRID) if fast else None
        for layout in (raster_layout(rank), sorted_layout(rank, size)):
            for image, ranks in enumerate(rank.tolist()):
                assert relations(layout, image, ranks) == rules(ranks)


@given(keys=st.lists(st.integers(0, 5), min_size=2, max_size=9).filter(lambda keys: len(set(keys)) > 1))
def test_layouts_agree_on_any_rank(keys):
    rank = dense_rank(torch.tensor([keys]))
    for layout in (raster_layout(rank), sorted_layout(rank)):
        assert relations(layout, 0, rank[0].tolist()) == rules(rank[0].tolist())


@pytest.mark.parametrize(
    ('partition', 'left_out', 'masks'),
    [(SquarePartition(6), 4, 1), (PatchPartition(), 1, 1), (BlobPartition(7), 1, 5)],
    ids=['square', 'patch', 'blob'],
)
def test_shapes(partition, left_out, masks):
    rank = RandomSerialization(partition)(5, GRID, torch.Generator().manual_seed(0), torch.device('cpu'))
    fast = sorted_layout(rank, partition.tokens_per_segment(GRID))
    for layout, rows, n in ((fast, masks, 24 - left_out), (raster_layout(rank), 5, 24)):
        assert layout.source.shape == layout.target.shape == layout.predicted.shape == (5, n)
        for mask in (layout.source_mask, layout.target_mask, layout.memory_mask):
            assert mask.dense().shape == (rows, n, n)
            assert mask.query_rank.dtype == mask.key_rank.dtype == torch.int32


def test_predicted_is_all_but_the_first_segment():
    rank = torch.tensor([[2, 0, 1, 0, 2], [0, 1, 1, 1, 1]])
    assert raster_layout(rank).predicted.tolist() == [[True, False, True, False, True], [False, True, True, True, True]]
    layout = sorted_layout(rank)
    assert layout.target.tolist() == [[3, 2, 0, 4], [1, 2, 3, 4]]
    assert layout.source.tolist() == [[1, 3, 2, 0], [0, 1, 2, 3]]
    assert layout.predicted.tolist() == [[False, True, True, True], [True, True, True, True]]


def test_equal_segments_share_one_block_triangular_mask():
    rank = torch.tensor([[1, 0, 2, 0, 1, 2], [0, 0, 2, 1, 2, 1]])
    layout = sorted_layout(rank, 2)
    assert layout.source_mask is layout.target_mask is layout.memory_mask
    assert layout.source_mask.dense().int().tolist() == [[[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]]
    assert layout.source.tolist() == [[1, 3, 0, 4], [0, 1, 3, 5]]
    assert layout.target.tolist() == [[0, 4, 2, 5], [3, 5, 2, 4]]


@settings(max_examples=30)
@given(
    serialization=st.builds(
        lambda order, partition: order(partition),
        st.sampled_from([RandomSerialization, RasterSerialization]),
        st.sampled_from(list(PARTITIONS.values())),
    ),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    seed=st.integers(0, 99),
)
def test_groups_are_cut_to_what_their_images_need(serialization, sizes, seed):
    rank = serialization(math.prod(sizes), GRID, torch.Generator().manual_seed(seed), torch.device('cpu'))
    groups = split_by_length(rank, sizes[0])
    assert sorted(torch.cat([images for images, *_ in groups]).tolist()) == list(range(len(rank)))
    for images, lengths, share in groups:
        assert len(images) == sizes[1]
        assert share == pytest.approx((rank[images] > 0).sum() / (rank > 0).sum())
        assert set(lengths) <= {*range(2, 24, 2), 23}, 'another shape to compile'
        layout = sorted_layout(rank[images], lengths=lengths)
        assert (layout.source.shape[1], layout.target.shape[1]) == lengths
        for image, ranks in enumerate(rank[images].tolist()):
            assert relations(layout, image, ranks) == rules(ranks), 'a token that is needed was cut off'


def test_a_batch_in_two_groups():
    rank = torch.tensor([[0, 1, 1, 2], [1, 0, 0, 1], [0, 2, 1, 2], [0, 0, 0, 1]])  # last segments of 1, 2, 2, 1 tokens
    (short, *short_numbers), (long, *long_numbers) = split_by_length(rank, 2)
    assert [short.tolist(), *short_numbers] == [[1, 2], (2, 3), 5 / 9]
    assert [long.tolist(), *long_numbers] == [[0, 3], (3, 3), 4 / 9]
    layout = sorted_layout(rank[:1], lengths=(3, 2))
    assert (layout.source.tolist(), layout.target.tolist()) == ([[0, 1, 2]], [[2, 3]])
    assert layout.source_mask.dense().int().tolist() == [[[1, 0, 0], [1, 1, 1], [1, 1, 1]]]
    assert layout.target_mask.dense().int().tolist() == [[[1, 0], [1, 1]]]
    assert layout.memory_mask.dense().int().tolist() == [[[1, 0, 0], [1, 1, 1]]]
