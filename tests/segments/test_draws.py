"""Contract: with seeds the draws of an image are uniform, and depend on its seed and on nothing else."""

import math
from collections import Counter

import pytest
import torch

from randsac_mm.datasets import BatchRandomResizedCrop
from randsac_mm.segments import BlobPartition, PatchPartition, RandomSerialization, ShuffledPartition, SquarePartition
from randsac_mm.segments.draws import SampleGenerator, draw_uniform, scramble

CPU = torch.device('cpu')
SEEDS = torch.arange(100, 111)
SERIALIZATIONS = {
    'square': RandomSerialization(SquarePartition((32, 8, 2))),
    'blob': RandomSerialization(BlobPartition((11, 5))),
    'shuffled': RandomSerialization(ShuffledPartition(PatchPartition())),
}
DRAWS = {
    name: lambda seeds, draw=draw: draw(len(seeds), (4, 8), SampleGenerator(seeds), CPU)
    for name, draw in SERIALIZATIONS.items()
}
DRAWS['crop'] = lambda seeds: BatchRandomResizedCrop(6, flip_prob=0.5)(
    torch.arange(99.0).view(1, 1, 9, 11).expand(len(seeds), -1, -1, -1).byte(), SampleGenerator(seeds)
)


@pytest.mark.parametrize('draw', DRAWS.values(), ids=DRAWS)
def test_neither_the_order_nor_the_size_of_a_batch_matters(draw):
    whole, order = draw(SEEDS), torch.randperm(len(SEEDS))
    assert torch.equal(draw(SEEDS[order]), whole[order])
    assert torch.equal(torch.cat([draw(SEEDS[:4]), draw(SEEDS[4:])]), whole)
    assert len(whole.flatten(1).unique(dim=0)) == len(SEEDS), 'images of other seeds differ'
    assert not torch.equal(draw(~SEEDS), whole)


def test_scramble_is_splitmix64():
    def expected(number):
        bits = (number + 0x9E3779B97F4A7C15) % 2**64
        bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % 2**64
        return bits ^ bits >> 31

    assert expected(0) == 0xE220A8397B1DCDAF, 'as published'
    numbers = [0, 1, -1, 2**62, -(2**63), 2**63 - 1, *torch.randint(2**62, (50,)).tolist()]
    assert [n % 2**64 for n in scramble(torch.tensor(numbers)).tolist()] == [expected(n % 2**64) for n in numbers]


def test_it_does_not_matter_how_many_numbers_are_made_in_one_go(monkeypatch):
    sizes, generator = (3, 0, 5, 30, 2), SampleGenerator(SEEDS)
    expected = SampleGenerator(SEEDS).integers(sum(sizes))
    assert torch.equal(torch.cat([generator.integers(size) for size in sizes], 1), expected)
    assert 0 <= expected.min() <= expected.max() < 2**62


def test_bits_are_fair_and_independent_of_neighbours():
    """Within 5 standard deviations: of each bit, and of it with the next image, the next number and another pass."""
    count, seeds = 4000, torch.arange(4000)
    first, other = (SampleGenerator(s).integers(8) for s in (seeds, ~seeds))
    bits, others = ((n[..., None] >> torch.arange(62) & 1) * 2.0 - 1 for n in (first, other))
    pairs = [bits, bits[1:] * bits[:-1], bits[:, 1:] * bits[:, :-1], bits[..., 1:] * bits[..., :-1], bits * others]
    for pair in pairs:
        assert pair.mean(0).abs().max() < 5 * count**-0.5
        assert pair.mean().abs() < 5 * pair.numel() ** -0.5


@pytest.mark.parametrize(('batch_dim', 'double'), [(0, False), (1, True)])
def test_numbers_are_uniform(batch_dim, double):
    shape = (20_000, 3) if batch_dim == 0 else (3, 20_000)
    numbers = draw_uniform(shape, SampleGenerator(torch.arange(20_000)), CPU, batch_dim, double)
    assert (tuple(numbers.shape), numbers.dtype) == (shape, torch.float64 if double else torch.float32)
    assert 0 <= numbers.min() <= numbers.max() < 1
    assert_uniform((numbers.flatten() * 100).long().tolist(), 100)


def test_orders_are_equally_likely():
    rank = RandomSerialization(PatchPartition())(20_000, (2, 2), SampleGenerator(torch.arange(20_000)), CPU)
    assert_uniform(list(map(tuple, rank.tolist())), math.factorial(4))


def assert_uniform(found, possibilities):
    expected = len(found) / possibilities
    chi_square = sum((n - expected) ** 2 / expected for n in Counter(found).values())
    assert len(set(found)) == possibilities
    assert chi_square < possibilities - 1 + 5 * (2 * (possibilities - 1)) ** 0.5
