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
DRAWN = {
    'source': (source_mask, KEYS, 'x x . . .\nx x . . .\nx x x . .\nx x x x x\nx x x x x'),
    'target': (target_mask, QUERIES, '. . x . .\n. . x x x\n. . x x x'),
    'memory': (memory_mask, QUERIES, 'x x . . .\nx x x . .\nx x x . .'),
}


@pytest.mark.parametrize(('mask', 'queries', 'drawn'), DRAWN.values(), ids=DRAWN)
def test_masks_are_as_drawn(mask, queries, drawn):
    assert torch.equal(mask(queries, KEYS).dense()[0], matrix(drawn))


@given(rank=st.lists(st.integers(0, 4), min_size=1, max_size=7))
def test_masks_against_comparing_pairs(rank):
    ranks = torch.tensor([rank])
    for mask, rule in (
        (source_mask, lambda q, k: k <= q),
        (target_mask, lambda q, k: 0 < k <= q),
        (memory_mask, lambda q, k: k < q),
    ):
        found, expected = mask(ranks, ranks), [[rule(q, k) for k in rank] for q in rank]
        assert found.dense()[0].tolist() == expected
        assert found.has_key()[0].tolist() == [any(row) for row in expected]


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_additive_bias(dtype):
    """What SDPA adds: rows without a key are open, because a softmax over nothing is undefined."""
    inf = float('inf')
    mask = target_mask(KEYS, KEYS).prepare('sdpa', dtype)
    assert (mask.backend, mask.bias.dtype) == ('sdpa', dtype)
    rows = [[0, 0, 0, 0, 0]] * 2 + [[-inf, -inf, 0, -inf, -inf]] + [[-inf, -inf, 0, 0, 0]] * 2
    assert mask.bias[0, 0].tolist() == rows
    assert mask.prepare('plain', dtype)[2:] == ('plain', None)


@pytest.mark.parametrize('keys', [1, 15, 16, 60, 128, 135])
def test_bias_rows_are_aligned_also_after_expanding(keys):
    bias = Mask(torch.zeros(1, 7), torch.zeros(1, keys)).prepare('sdpa', torch.float32).bias
    *strides, last = bias.expand(3, 2, 7, keys).stride()
    assert all(stride % 8 == 0 for stride in strides)
    assert last == 1
