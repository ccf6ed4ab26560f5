"""Contract: boxes of mmpretrain's RandomResizedCrop, from the same numbers and in distribution; fair flips."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mmpretrain.datasets.transforms import RandomResizedCrop
from scipy.stats import binomtest, chi2_contingency, ks_2samp

from randsac_mm.datasets.batch_crops import BatchRandomResizedCrop, central_box, place_boxes
from randsac_mm.registry import TASK_UTILS

AREA, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)  # of our configs


def images(count=6, channels=3, height=32, width=32):
    return torch.randint(256, (count, channels, height, width), dtype=torch.uint8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(count, size, area=AREA, ratio=RATIO, attempts=10, seed=0):
    options = dict(dtype=torch.float64, generator=generator(seed))
    return place_boxes(torch.rand(2, count, attempts, **options), torch.rand(2, count, **options), size, area, ratio)


@st.composite
def crops(draw):
    size = draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
    area = sorted(draw(st.tuples(*[st.floats(0.01, 1.0)] * 2)))
    ratio = sorted(draw(st.tuples(*[st.floats(0.1, 10.0)] * 2)))
    return size, tuple(area), tuple(ratio), draw(st.integers(0, 10)), draw(st.integers(0, 2**32))


@given(crops())
@example(((32, 32), AREA, RATIO, 10, 0))
@example(((37, 53), (0.08, 1.0), (0.5, 2.0), 10, 0))
@example(((31, 11), (0.3, 1.0), RATIO, 2, 0))  # often nothing fits
@example(((3, 5), (0.01, 0.3), RATIO, 3, 0))  # sides of less than half a pixel
@settings(max_examples=60)
def test_the_same_numbers_give_the_boxes_of_mmpretrain(crop):
    size, area, ratio, attempts, seed = crop
    rng = np.random.default_rng(seed)
    shapes, corners = rng.random((2, 100, attempts)), rng.random((2, 100))
    found = place_boxes(torch.from_numpy(shapes), torch.from_numpy(corners), size, area, ratio)
    theirs = RandomResizedCrop(7, crop_ratio_range=area, aspect_ratio_range=ratio, max_attempts=attempts)
    expected = []
    with pytest.MonkeyPatch.context() as patch:
        for image in range(100):
            numbers, places = iter(shapes[:, image].T.ravel()), iter(corners[:, image])
            patch.setattr(np.random, 'uniform', lambda a, b, numbers=numbers: a + (b - a) * next(numbers))
            patch.setattr(np.random, 'randint', lambda a, b, places=places: a + math.floor((b - a) * next(places)))
            expected.append(list(theirs.rand_crop_params(np.empty(size))))
    assert found.tolist() == expected
    assert attempts or found.tolist() == [list(central_box(size, ratio))] * 100


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


@pytest.mark.parametrize('size', [(32, 32), (29, 53)])
def test_distribution_is_that_of_mmpretrain(size):
    np.random.seed(1)
    theirs = RandomResizedCrop(7, crop_ratio_range=AREA, aspect_ratio_range=RATIO)
    expected = [theirs.rand_crop_params(np.empty(size)) for _ in range(20_000)]
    assert min(p_values(drawn(20_000, size), expected, size)) > 1e-3
    for wrong in (dict(area=(0.22, 1.0)), dict(area=(0.08, 1.0)), dict(ratio=(0.7, 4 / 3))):
        assert min(p_values(drawn(20_000, size, **wrong), expected, size)) < 1e-3, 'the comparison is sharp'


def test_generator_alone_decides():
    transform = TASK_UTILS.build(dict(type='BatchRandomResizedCrop', scale=(8, 12), flip_prob=0.5))
    x = images(20, channels=2)
    state = torch.get_rng_state()
    found = transform(x, generator())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(transform(x, generator()), found)
    assert not torch.equal(transform(x, generator(1)), found)


@pytest.mark.parametrize('prob', [0.5, 0.2])
def test_flips_are_fair_and_independent(prob):
    ramp = torch.arange(4, dtype=torch.uint8).expand(20_000, 1, 1, 4)
    plain = dict(crop_ratio_range=(1, 1), aspect_ratio_range=(4, 4), interpolation='bilinear')
    found = BatchRandomResizedCrop((1, 4), **plain, flip_prob=prob)(ramp, generator())[:, 0, 0].long()
    flipped = found[:, 0] == 3
    assert torch.equal(found[~flipped], ramp[~flipped, 0, 0].long())
    assert torch.equal(found[flipped], ramp[flipped, 0, 0].flip(1).long())
    assert binomtest(int(flipped.sum()), 20_000, prob).pvalue > 1e-3
    assert (flipped[1:] & flipped[:-1]).float().mean() == pytest.approx(prob**2, abs=0.01), 'neighbours are independent'
    assert binomtest(int(flipped.sum()), 20_000, prob + 0.02).pvalue < 1e-3, 'the comparison is sharp'


@pytest.mark.parametrize('prob', [0.0, 1.0])
def test_where_nothing_fits_the_central_box_is_taken(prob):
    x = images(height=30, width=100)
    found = BatchRandomResizedCrop((30, 40), crop_ratio_range=(1, 1), flip_prob=prob)(x, generator())
    central = x[..., 30:70].float()
    assert torch.equal(found, central.flip(-1) if prob else central)


@pytest.mark.parametrize(
    'wrong',
    [
        dict(scale=0),
        dict(scale=(1, 2, 3)),
        dict(crop_ratio_range=(0.5, 0.2)),
        dict(crop_ratio_range=(0.5, 1.2)),
        dict(crop_ratio_range=(0, 1)),
        dict(aspect_ratio_range=(2, 1)),
        dict(interpolation='lanczos'),
        dict(flip_prob=1.5),
    ],
    ids=str,
)
def test_values_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BatchRandomResizedCrop(**{'scale': 8, **wrong})


@pytest.mark.gpu
def test_gpu_crops_without_waiting():
    crop, x = BatchRandomResizedCrop(32, flip_prob=0.5), images(40).cuda()
    source = torch.Generator('cuda').manual_seed(0)
    crop(x, source)  # makes its tables
    torch.cuda.set_sync_debug_mode('error')
    try:
        crop(x, source)
    finally:
        torch.cuda.set_sync_debug_mode('default')
