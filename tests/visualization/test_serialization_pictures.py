"""Pictures of serializations show the ranks they are given, in their order, with the hierarchy they came from."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from randsac_mm.models import build_serialization
from randsac_mm.visualization import serialize
from randsac_mm.visualization.figures import draw_borders, rank_colours
from randsac_mm.visualization.serialization_pictures import draw_segments, veil

GRID = (4, 6)


def random_serialization(**partition):
    return build_serialization(dict(type='RandomSerialization', partition=partition))


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    'partition',
    [dict(type='SquarePartition', hierarchy=(24, 6)), dict(type='BlobPartition', hierarchy=(7, 3))],
    ids=['square', 'blob'],
)
def test_groups_belong_to_the_ranks(partition):
    ranks, groups = serialize(random_serialization(**partition), 5, GRID, seed=3)
    assert torch.equal(ranks, serialize(random_serialization(**partition), 5, GRID, seed=3)[0])
    assert groups.shape == (5, 1, 24)
    for rank, of_image in zip(ranks, groups[:, 0], strict=True):
        of_rank = [set(of_image[rank == r].tolist()) for r in range(int(rank.max()) + 1)]
        assert all(len(ids) == 1 for ids in of_rank), 'a segment lies in two groups'
        visited = [ids.pop() for ids in of_rank]
        changes = sum(a != b for a, b in pairwise(visited))
        assert changes == len(set(visited)) - 1, 'a group was left and entered again'


def test_segment_after_segment_is_revealed():
    ranks = np.array([2, 0, 1, 1])
    for now in range(4):
        colours = veil(ranks, now)
        np.testing.assert_array_equal(colours[:, 3], ranks >= now)
        np.testing.assert_allclose(colours[ranks == now, :3], rank_colours(3)[ranks[ranks == now]])
        assert len(np.unique(colours[ranks > now], axis=0)) == (now < 2), 'what comes later looks alike'


def test_every_segment_has_its_number_and_colour(image):
    ranks = np.array([0, 0, 1, 3] * 6)
    ranks[-1] = 2
    axes = Figure().subplots()
    draw_segments(axes, image, ranks, GRID, np.zeros((1, 24), int), '')
    for text in axes.texts:
        column, row = text.get_position()
        assert ranks.reshape(GRID)[int(row), int(column)] == int(text.get_text())
    assert [text.get_text() for text in axes.texts] == ['0', '1', '2', '3']
    np.testing.assert_allclose(axes.images[1].get_array().reshape(24, 3), rank_colours(4)[ranks])


def test_borders_separate_segments_and_surround_what_is_inside():
    axes = Figure().subplots()
    draw_borders(axes, np.array([0, 1, -1, 0, 1, 1]), (2, 3), 'red', 2)
    lines = {tuple(map(tuple, line.astype(int).tolist())) for line in axes.collections[0].get_segments()}
    left = {((0, 0), (0, 1)), ((0, 1), (0, 2)), ((1, 0), (1, 1)), ((1, 1), (1, 2))}
    right = {((2, 0), (2, 1)), ((3, 1), (3, 2)), ((2, 1), (3, 1))}
    ends = {((x, y), (x + 1, y)) for x, y in ((0, 0), (1, 0), (0, 2), (1, 2), (2, 2))}
    assert lines == left | right | ends
