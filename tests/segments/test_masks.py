"""Contract: True = may attend. The matrices are those of the docstrings, typed by hand."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from randsac_mm.segments import memory_mask, source_mask, target_mask


def matrix(text):
    return torch.tensor([[mark == 'x' for mark in line.split()] for line in text.strip().splitlines()])


KEYS = torch.tensor([[0, 0, 1, 2, 2]])
QUERIES = torch.tensor([[1, 2, 2]])


def test_source_mask():
    expected = matrix("""
        x x . . .
        x x . . .
        x x x . .
        x x x x x
        x x x x x
    """)
    assert torch.equal(source_mask(KEYS, KEYS).dense()[0], expected)


def test_target_mask():
    expected = matrix("""
        . . x . .
        . . x x x
        . . x x x
    """)
    assert torch.equal(target_mask(QUERIES, KEYS).dense()[0], expected)


def test_memory_mask():
    expected = matrix("""
        x x . . .
        x x x . .
        x x x . .
    """)
    assert torch.equal(memory_mask(QUERIES, KEYS).dense()[0], expected)


def test_masks_of_two_images_in_raster_order():
    rank = torch.tensor([[1, 0, 2], [0, 1, 1]])
    assert torch.equal(source_mask(rank, rank).dense()[0], matrix('x x .\n. x .\nx x x'))
    assert torch.equal(source_mask(rank, rank).dense()[1], matrix('x . .\nx x x\nx x x'))
    assert torch.equal(target_mask(rank, rank).dense()[0], matrix('x . .\n. . .\nx . x'))
    assert torch.equal(target_mask(rank, rank).dense()[1], matrix('. . .\n. x x\n. x x'))
    assert torch.equal(memory_mask(rank, rank).dense()[0], matrix('. x .\n. . .\nx x .'))
    assert torch.equal(memory_mask(rank, rank).dense()[1], matrix('. . .\nx . .\nx . .'))


@given(rank=st.lists(st.integers(0, 4), min_size=1, max_size=7))
def test_masks_against_comparing_pairs(rank):
    ranks = torch.tensor([rank])
    for mask, rule in (
        (source_mask, lambda q, k: k <= q),
        (target_mask, lambda q, k: 0 < k <= q),
        (memory_mask, lambda q, k: k < q),
    ):
        assert mask(ranks, ranks).dense()[0].tolist() == [[rule(q, k) for k in rank] for q in rank]
