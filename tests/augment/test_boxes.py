"""Contract: boxes are those of mmpretrain's RandomResizedCrop, from the same numbers exactly, else in distribution."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmpretrain.datasets.transforms import RandomResizedCrop
from scipy.stats import chi2_contingency, ks_2samp

from randsac_mm.augment import draw_boxes, place_boxes
from randsac_mm.augment.boxes import central_box

CPU = torch.device('cpu')
AREA, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)  # of our configs


def theirs(size, area=AREA, ratio=RATIO, attempts=10):
    return RandomResizedCrop(7, crop_ratio_range=area, aspect_ratio_range=ratio, max_attempts=attempts)


def drawn(count, size, area=AREA, ratio=RATIO, attempts=10, seed=0):
    return draw_boxes(count, size, area, ratio, attempts, torch.Generator().manual_seed(seed), CPU)


@st.composite
def settings_of_a_crop(draw):
    size = draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
    area = sorted(draw(st.tuples(*[st.floats(0.01, 1.0)] * 2)))
    ratio = sorted(draw(st.tuples(*[st.floats(0.1, 10.0)] * 2)))
    return size, tuple(area), tuple(ratio), draw(st.integers(0, 10)), draw(st.integers(0, 2**32))


@given(settings_of_a_crop())
@settings(max_examples=60)
def test_boxes_lie_inside_and_keep_the_ranges(case):
    (height, width), area, ratio, attempts, seed = case
    top, left, tall, wide = drawn(31, (height, width), area, ratio, attempts, seed).unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()
    assert (tall >= 1).all() or central_box((height, width), ratio)[2] == 0
    # Sides are rounded: the ranges hold for some point within half a pixel of them.
    small, large = (tall - 0.5) * (wide - 0.5), (tall + 0.5) * (wide + 0.5)
    in_area = (large >= area[0] * height * width - 1e-6) & (small <= area[1] * height * width + 1e-6)
    flattest, steepest = (wide + 0.5) / (tall - 0.5), (wide - 0.5) / (tall + 0.5)
    in_ratio = (flattest >= ratio[0] - 1e-6) & (steepest <= ratio[1] + 1e-6)
    box = torch.stack([top, left, tall, wide], 1)
    fallback = (box == torch.tensor(central_box((height, width), ratio))).all(1)
    assert ((in_area & in_ratio) | fallback).all()


@pytest.mark.parametrize(
    ('size', 'area', 'ratio', 'attempts'),
    [
        ((32, 32), AREA, RATIO, 10),
        ((37, 53), (0.08, 1.0), (0.5, 2.0), 10),
        ((31, 11), (0.3, 1.0), RATIO, 2),  # often nothing fits
        ((11, 31), (0.3, 1.0), RATIO, 2),
        ((3, 5), (0.01, 0.3), RATIO, 3),  # sides of less than half a pixel
        ((13, 17), AREA, RATIO, 0),
    ],
)
def test_the_same_numbers_give_the_boxes_of_mmpretrain(size, area, ratio, attempts, monkeypatch):
    rng = np.random.default_rng(0)
    shapes, corners = rng.random((2, 300, attempts)), rng.random((2, 300))
    found = place_boxes(torch.from_numpy(shapes), torch.from_numpy(corners), size, area, ratio)
    transform, expected = theirs(size, area, ratio, attempts), []
    for image in range(300):
        numbers, places = iter(shapes[:, image].T.ravel()), iter(corners[:, image])
        monkeypatch.setattr(np.random, 'uniform', lambda a, b, numbers=numbers: a + (b - a) * next(numbers))
        monkeypatch.setattr(np.random, 'randint', lambda a, b, places=places: a + math.floor((b - a) * next(places)))
        expected.append(transform.rand_crop_params(np.empty(size)))
    assert found.tolist() == [list(box) for box in expected]
    fallbacks = expected.count(central_box(size, ratio))
    assert (fallbacks > 20) == (size in {(31, 11), (11, 31)} or not attempts)
    assert (len(set(expected)) > 20) == (attempts > 0)


def p_values(ours, other, size):
    """Compare two samples of boxes (n, 4): p of every side, of area and ratio, and of the joint shape."""
    ours, other = np.asarray(ours), np.asarray(other)

    def features(boxes):
        top, left, tall, wide = boxes.T
        spare = np.stack([top / np.maximum(size[0] - tall, 1), left / np.maximum(size[1] - wide, 1)])
        return [top, left, tall, wide, tall * wide, wide / tall, *spare]

    values = [ks_2samp(a, b).pvalue for a, b in zip(features(ours), features(other), strict=True)]
    edges = [np.quantile(other[:, axis], np.linspace(0, 1, 7)[1:-1]) for axis in range(4)]
    cells = [sum(6**axis * np.digitize(b[:, axis], edges[axis]) for axis in range(4)) for b in (ours, other)]
    table = np.stack([np.bincount(c, minlength=6**4) for c in cells])
    table = table[:, table.sum(0) >= 10]  # the test wants at least 5 in a cell on average
    return [*values, chi2_contingency(table).pvalue]


@pytest.fixture(scope='module')
def samples_of_mmpretrain():
    found = {}
    for size in ((32, 32), (29, 53)):
        np.random.seed(1)
        transform, image = theirs(size), np.empty(size)
        found[size] = [transform.rand_crop_params(image) for _ in range(20_000)]
    return found


@pytest.mark.parametrize('size', [(32, 32), (29, 53)])
def test_distribution_is_that_of_mmpretrain(size, samples_of_mmpretrain):
    values = p_values(drawn(20_000, size), samples_of_mmpretrain[size], size)
    assert min(values) > 1e-3, values


@pytest.mark.parametrize(
    'change',
    [
        dict(area=(0.22, 1.0)),
        dict(area=(0.08, 1.0)),
        dict(ratio=(0.7, 4 / 3)),
    ],
    ids=str,
)
def test_the_comparison_notices_another_distribution(change, samples_of_mmpretrain):
    assert min(p_values(drawn(20_000, (32, 32), **change), samples_of_mmpretrain[32, 32], (32, 32))) < 1e-3


def test_images_and_seeds_differ():
    boxes = drawn(200, (32, 32))
    assert len(boxes.unique(dim=0)) > 150
    assert not torch.equal(boxes, drawn(200, (32, 32), seed=1))
    assert torch.equal(boxes, drawn(200, (32, 32)))
