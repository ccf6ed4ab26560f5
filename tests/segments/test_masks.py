"""Contract: True = may attend. The matrices are those of the docstrings, typed by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from randsac_mm.segments import Mask, memory_mask, source_mask, target_mask


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


def test_queries_with_a_key():
    assert memory_mask(KEYS, KEYS).has_key().tolist() == [[False, False, True, True, True]]


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_additive_bias(dtype):
    """What SDPA adds: rows without a key are open, because a softmax over nothing is undefined."""
    inf = float('inf')
    mask = target_mask(KEYS, KEYS).prepare('sdpa', dtype)
    assert mask.bias.dtype == dtype
    rows = [[0, 0, 0, 0, 0]] * 2 + [[-inf, -inf, 0, -inf, -inf]] + [[-inf, -inf, 0, 0, 0]] * 2
    assert mask.bias[0, 0].tolist() == rows
    assert mask.prepare('plain', dtype).bias is None


@pytest.mark.parametrize('keys', [1, 15, 16, 60, 128, 135])
def test_bias_rows_are_aligned_also_after_expanding(keys):
    bias = Mask(torch.zeros(1, 7), torch.zeros(1, keys)).prepare('sdpa', torch.float32).bias
    expanded = bias.expand(3, 2, 7, keys)
    assert all(stride % 8 == 0 for stride in expanded.stride()[:3])
    assert expanded.stride(3) == 1
