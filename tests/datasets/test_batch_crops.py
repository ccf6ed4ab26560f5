"""Contract: boxes of mmpretrain's RandomResizedCrop from the same numbers; fair flips."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mmpretrain.datasets.transforms import RandomResizedCrop
from scipy.stats import binomtest

from randsac_mm.datasets.batch_crops import BatchRandomResizedCrop, central_box, place_boxes
from randsac_mm.registry import TASK_UTILS

AREA, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)  # of our configs


def images(count=6, channels=3, height=32, width=32):
    return torch.randint(256, (count, channels, height, width), dtype=torch.uint8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


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


def test_boxes_keep_to_the_ranges(monkeypatch):
    crop = BatchRandomResizedCrop(8, crop_ratio_range=(0.2, 0.5), aspect_ratio_range=(1.5, 2))
    monkeypatch.setattr(crop, '_resize', lambda images, boxes, flip: boxes)
    tall, wide = crop(images(500, height=100, width=300), generator())[:, 2:].T
    for values, (low, high) in ((tall * wide / 30_000, (0.2, 0.5)), (wide / tall, (1.5, 2))):
        torch.testing.assert_close(
            torch.stack([values.min(), values.max()]), torch.tensor([low, high]), atol=0.03, rtol=0
        )


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
