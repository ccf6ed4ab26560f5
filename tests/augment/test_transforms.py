"""Contract: transforms of a batch draw for each image from the generator they get, and refuse what they cannot do."""

import pytest
import torch
from scipy.stats import binomtest

from randsac_mm.augment import BatchRandomFlip, BatchRandomResizedCrop


def images(count=6, channels=3, height=32, width=32):
    return torch.randint(256, (count, channels, height, width), dtype=torch.uint8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    'transform', [BatchRandomResizedCrop((8, 12), flip_prob=0.5), BatchRandomFlip()], ids=['crop', 'flip']
)
def test_generator_alone_decides(transform):
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
    for transform in (BatchRandomFlip(prob), BatchRandomResizedCrop((1, 4), **plain, flip_prob=prob)):
        found = transform(ramp, generator())[:, 0, 0]
        flipped = found[:, 0] == 3
        assert torch.equal(found[~flipped].long(), ramp[~flipped, 0, 0].long())
        assert torch.equal(found[flipped].long(), ramp[flipped, 0, 0].flip(1).long())
        assert binomtest(int(flipped.sum()), 20_000, prob).pvalue > 1e-3
        both = (flipped[1:] & flipped[:-1]).float().mean()  # neighbours know nothing of each other
        assert both == pytest.approx(prob**2, abs=0.01)
        assert binomtest(int(flipped.sum()), 20_000, prob + 0.02).pvalue < 1e-3  # 20,000 are enough to tell


def test_flip_does_not_depend_on_the_box():
    x = torch.arange(32, dtype=torch.uint8).expand(4000, 1, 32, 32)
    found = BatchRandomResizedCrop(32, (0.2, 1.0), flip_prob=0.5)(x, generator())[:, 0, 0]
    flipped = found[:, 0] > found[:, -1]
    middle = found.mean(1)
    spread = middle.std() / 2000**0.5
    assert abs(middle[flipped].mean() - middle[~flipped].mean()) < 4 * spread


def test_probabilities_of_0_and_1():
    x = images()
    assert torch.equal(BatchRandomFlip(0.0)(x, generator()), x)
    assert torch.equal(BatchRandomFlip(1.0)(x, generator()), x.flip(-1))


def test_central_box_where_nothing_is_tried():
    x = images(height=30, width=100)
    found = BatchRandomResizedCrop((30, 40), max_attempts=0)(x, generator())
    assert torch.equal(found, x[..., 30:70].float())


def test_dtype_and_shape():
    found = BatchRandomResizedCrop((8, 12))(images(channels=1), generator())
    assert (found.shape, found.dtype) == ((6, 1, 8, 12), torch.float32)
    assert BatchRandomFlip()(images(), generator()).dtype == torch.uint8


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(scale=0), r'scale=0 must be a side of at least 1 pixel, or height and width'),
        (dict(scale=(1, 2, 3)), r'scale=\(1, 2, 3\) must be a side'),
        (dict(crop_ratio_range=(0.5, 0.2)), r'crop_ratio_range=\(0.5, 0.2\) must be \(smallest, largest\).*at most 1'),
        (dict(crop_ratio_range=(0.5, 1.2)), r'crop_ratio_range=\(0.5, 1.2\) must be'),
        (dict(crop_ratio_range=(0, 1)), r'crop_ratio_range=\(0, 1\) must be .* both above 0'),
        (dict(aspect_ratio_range=(2, 1)), r'aspect_ratio_range=\(2, 1\) must be \(smallest, largest\), both above 0$'),
        (dict(max_attempts=-1), r'max_attempts=-1 must be at least 0'),
        (dict(interpolation='lanczos'), r"interpolation='lanczos' must be one of \['bicubic', 'bilinear'\]"),
        (dict(flip_prob=1.5), r'flip_prob=1.5 must be a probability between 0 and 1'),
    ],
    ids=str,
)
def test_what_cannot_be_done(change, message):
    with pytest.raises(ValueError, match=message):
        BatchRandomResizedCrop(**{'scale': 8, **change})


def test_flip_with_no_probability():
    with pytest.raises(ValueError, match='prob=-1 must be a probability'):
        BatchRandomFlip(-1)


@pytest.mark.gpu
def test_gpu_gives_the_pixels_of_the_cpu_without_waiting():
    from randsac_mm.augment import BoxResize, draw_boxes

    x = images(40)
    boxes = draw_boxes(40, (32, 32), (0.2, 1.0), (0.75, 4 / 3), 10, generator(), torch.device('cpu'))
    flip = torch.arange(40) % 2 == 0
    difference = (
        BoxResize((32, 32))(x.cuda(), boxes.cuda(), flip.cuda()).cpu() - BoxResize((32, 32))(x, boxes, flip)
    ).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.01

    crop, x = BatchRandomResizedCrop(32, flip_prob=0.5), x.cuda()
    source = torch.Generator('cuda').manual_seed(0)
    crop(x, source)  # makes its tables
    torch.cuda.set_sync_debug_mode('error')
    try:
        crop(x, source)
    finally:
        torch.cuda.set_sync_debug_mode('default')
