"""Contract: with seeds the draws of an image are uniform, and depend on its seed and on nothing else."""

import math
from collections import Counter

import pytest
import torch

from randsac_mm.datasets import BatchRandomResizedCrop
from randsac_mm.segments import BlobPartition, PatchPartition, RandomSerialization, ShuffledPartition, SquarePartition
from randsac_mm.segments.draws import _AT_ONCE, SampleGenerator, draw_uniform, scramble

CPU = torch.device('cpu')
SEEDS = torch.arange(100, 111)
PARTITIONS = {
    'square': SquarePartition((32, 8, 2)),
    'blob': BlobPartition((11, 5)),
    'shuffled': ShuffledPartition(PatchPartition()),
}


def draw(name, seeds):
    if name in PARTITIONS:
        return RandomSerialization(PARTITIONS[name])(len(seeds), (4, 8), SampleGenerator(seeds), CPU)
    image = torch.arange(99, dtype=torch.uint8).view(1, 1, 9, 11)
    return BatchRandomResizedCrop(6, flip_prob=0.5)(image.expand(len(seeds), -1, -1, -1), SampleGenerator(seeds))


@pytest.mark.parametrize('name', [*PARTITIONS, 'crop'])
def test_neither_the_order_nor_the_size_of_a_batch_matters(name):
    whole, order = draw(name, SEEDS), torch.randperm(len(SEEDS))
    assert torch.equal(draw(name, SEEDS[order]), whole[order])
    assert torch.equal(torch.cat([draw(name, SEEDS[:4]), draw(name, SEEDS[4:])]), whole)
    assert len(whole.flatten(1).unique(dim=0)) == len(SEEDS), 'images of other seeds differ'


def test_scramble_is_splitmix64():
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]  # from seed 0
    states = torch.arange(3) * (0x9E3779B97F4A7C15 - 2**64)
    assert [number % 2**64 for number in scramble(states).tolist()] == published


def test_it_does_not_matter_how_many_numbers_are_made_in_one_go(monkeypatch):
    sizes, generator = (3, 0, 5, 30, 2), SampleGenerator(SEEDS)
    expected = SampleGenerator(SEEDS).integers(sum(sizes))
    monkeypatch.setitem(_AT_ONCE, 'cpu', 7)
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


def test_numbers_and_orders_are_uniform():
    seeds = torch.arange(20_000)
    for double in (False, True):
        numbers = draw_uniform((3, len(seeds)), SampleGenerator(seeds), 1, double)
        assert (numbers.shape, numbers.dtype) == ((3, len(seeds)), torch.float64 if double else torch.float32)
        assert 0 <= numbers.min() <= numbers.max() < 1
        assert_uniform((numbers.flatten() * 100).long().tolist(), 100)
    orders = RandomSerialization(PatchPartition())(len(seeds), (2, 2), SampleGenerator(seeds), CPU)
    assert_uniform(list(map(tuple, orders.tolist())), math.factorial(4))


def assert_uniform(found, possibilities):
    expected = len(found) / possibilities
    chi_square = sum((n - expected) ** 2 / expected for n in Counter(found).values())
    assert len(set(found)) == possibilities
    assert chi_square < possibilities - 1 + 5 * (2 * (possibilities - 1)) ** 0.5
