"""Contract: the pixels of Pillow, for any box, flip and size; a negative control shows that the comparison is sharp."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from randsac_mm.datasets.batch_crops import place_boxes
from randsac_mm.datasets.box_resize import BoxResize

CODES = {'bicubic': Image.Resampling.BICUBIC, 'bilinear': Image.Resampling.BILINEAR}


@pytest.fixture(scope='module')
def photo():
    return load_sample_image('flower.jpg')


def batch(photo, size, count=12, seed=0):
    """Make images (B, C, H, W): patches of a photograph and noise, the worst case, with boxes and flips."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)
    for image in images[::2]:
        top, left = (rng.integers(limit - side) for limit, side in zip(photo.shape, size, strict=False))
        image[:] = photo[top : top + size[0], left : left + size[1]]
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(2, count, 11, dtype=torch.float64, generator=generator)
    boxes = place_boxes(numbers[..., 1:], numbers[..., 0], size, (0.02, 1.0), (0.4, 2.5))
    boxes[:2] = torch.tensor([0, 0, *size])
    return torch.from_numpy(images).permute(0, 3, 1, 2), boxes, torch.arange(count) % 3 == 0


def pillow(images, boxes, flip, size, interpolation):
    """Resize image by image: columns, then rows, as every version of Pillow before 13 does in one call."""
    results = []
    for image, box, flipped in zip(images.permute(0, 2, 3, 1).numpy(), boxes.tolist(), flip.tolist(), strict=True):
        top, left, tall, wide = box
        crop = Image.fromarray(np.ascontiguousarray(image[top : top + tall, left : left + wide]))
        code = CODES[interpolation]
        result = np.array(crop.resize((size[1], tall), code).resize((size[1], size[0]), code))
        results.append(result[:, ::-1] if flipped else result)
    return torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize('interpolation', CODES)
@pytest.mark.parametrize(
    ('source', 'target'),
    [
        ((32, 32), (32, 32)),
        ((37, 53), (29, 61)),
        ((13, 7), (32, 31)),  # only up
        ((130, 90), (17, 23)),  # only down
        ((400, 30), (13, 40)),
        ((96, 96), (64, 64)),  # matrices made for the batch
        ((5, 7), (1, 1)),
        ((1, 1), (3, 2)),
    ],
)
def test_pixels_are_those_of_pillow(photo, source, target, interpolation):
    images, boxes, flip = batch(photo, source)
    found = BoxResize(target, interpolation)(images, boxes, flip)
    difference = (found - pillow(images, boxes, flip, target, interpolation)).abs()
    # float32 against Pillow's fixed point: a tie of a rounding may fall to the other side, nothing more.
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.01
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert torch.equal(found, found.round())


def test_the_comparison_is_sharp(photo):
    images, boxes, flip = batch(photo, (37, 53))
    expected = pillow(images, boxes, flip, (29, 61), 'bicubic')
    shifted = boxes - torch.tensor([0, 1, 0, 0]) * (boxes[:, 1:2] > 0)
    for wrong in (
        BoxResize((29, 61), 'bilinear')(images, boxes, flip),
        BoxResize((29, 61))(images, shifted, flip),
        BoxResize((29, 61))(images, boxes, ~flip),
    ):
        assert (wrong - expected).abs().max() > 5


def test_table_and_direct_weights_agree(photo, monkeypatch):
    images, boxes, flip = batch(photo, (21, 34))
    looked_up = BoxResize((16, 19))(images, boxes, flip)
    monkeypatch.setattr('randsac_mm.datasets.box_resize._TABLE_BYTES', 0)
    direct = BoxResize((16, 19))
    assert torch.equal(direct(images, boxes, flip), looked_up)
    assert not direct._tables


def test_parts_of_a_batch_memory_formats_and_autocast_change_nothing(photo, monkeypatch):
    images, boxes, flip = batch(photo, (32, 32), count=11)
    whole = BoxResize((32, 32))(images, boxes, flip)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(BoxResize((32, 32))(images, boxes, flip), whole)
    monkeypatch.setattr('randsac_mm.datasets.box_resize._CACHED_IMAGES', 4)
    torch.testing.assert_close(BoxResize((32, 32))(images.contiguous(), boxes, flip), whole, rtol=0, atol=1)
    assert BoxResize((32, 32))(images[:0], boxes[:0], flip[:0]).shape == (0, 3, 32, 32)


@pytest.mark.gpu
def test_gpu_gives_the_pixels_of_the_cpu(photo):
    images, boxes, flip = batch(photo, (32, 32), count=40)
    on_gpu = BoxResize((32, 32))(images.cuda(), boxes.cuda(), flip.cuda()).cpu()
    difference = (on_gpu - BoxResize((32, 32))(images, boxes, flip)).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.01
