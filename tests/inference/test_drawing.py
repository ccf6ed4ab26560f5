"""Contract: what is drawn can be chosen, grows with objects and image, and never hides what it is about."""

import numpy as np
import pytest
from inference.conftest import photo

from randsac_mm.datasets import read_image
from randsac_mm.inference import Predictor
from randsac_mm.inference.drawing import PARTS, draw_instances

RED, BLUE = (255, 0, 0), (0, 0, 255)


def scene(side=400, boxes=((100, 100, 299, 299), (10, 350, 21, 361)), seed=0):
    """Grey noise, a large object and a small one; their masks are discs."""
    image = np.random.default_rng(seed).integers(100, 150, (side, side, 3), dtype=np.uint8)
    y, x = np.mgrid[:side, :side]
    centres = [((left + right) / 2, (top + bottom) / 2, (right - left) / 2) for left, top, right, bottom in boxes]
    masks = np.array([(x - cx) ** 2 + (y - cy) ** 2 <= radius**2 for cx, cy, radius in centres])
    return image, np.float32(boxes), masks


def changed(parts, image, boxes, masks, names=('dog 93', 'cat 41'), colors=(RED, BLUE), **options):
    before = image.copy()
    picture = draw_instances(image, boxes, names, colors, masks, parts, **options)
    assert np.array_equal(image, before)
    assert picture.shape == image.shape
    assert picture.dtype == np.uint8
    return (picture != image).any(axis=2)


def inside(box, shape, by=0):
    left, top, right, bottom = (int(value) for value in box)
    area = np.zeros(shape, dtype=bool)
    area[max(0, top + by) : bottom + 1 - by, max(0, left + by) : right + 1 - by] = True
    return area


def test_masks_change_their_pixels_only():
    image, boxes, masks = scene()
    assert np.array_equal(changed(['masks'], image, boxes, masks), masks.any(axis=0))
    picture = draw_instances(image, boxes, ['', ''], (RED, BLUE), masks, ['masks'], alpha=0.25)
    inner = np.float32(image[200, 200])
    assert np.abs(picture[200, 200] - (0.75 * inner + 0.25 * np.float32(RED))).max() <= 1
    assert not changed(['masks'], image, boxes, None).any()


def test_lines_are_thin_on_small_objects_and_in_small_images():
    image, boxes, masks = scene()
    lines = changed(['boxes'], image, boxes, masks)
    outer = [inside(box, lines.shape) for box in boxes]
    assert (lines <= (outer[0] | outer[1])).all()
    assert (lines & outer[0]).sum() == 4 * 199 + 4 * 197, 'two pixels wide'
    assert (lines & outer[1]).sum() == 4 * 11, 'one pixel wide'
    large = scene(1600, boxes=((100, 100, 1299, 1299),))
    assert changed(['boxes'], *large, names=['x'])[100:120, 700].sum() == 6


def test_names_are_above_their_boxes_and_larger_on_larger_objects():
    image, boxes, _ = scene()
    large, small = (changed(['names'], image, boxes[i : i + 1], None, names=['dog 93'], colors=[RED]) for i in (0, 1))
    assert large.sum() > small.sum() > 100
    for found, box in ((large, boxes[0]), (small, boxes[1])):
        rows, columns = np.nonzero(found)
        assert rows.max() < box[1]
        assert columns.min() == box[0]
    upper = changed(['names'], image, np.float32([[390, 2, 399, 90]]), None, names=['a long name'], colors=[RED])
    assert upper[2].any(), 'there is no room above the image, nor to its right'
    assert upper[:, -1].any()


def test_by_default_a_name_larger_than_half_of_its_object_is_left_out():
    image, boxes, masks = scene()
    every, drawn = (changed(parts, image, boxes, masks) for parts in (PARTS, None))
    below = np.zeros_like(every)
    below[310:350] = True  # where the small object's name is, above its box
    assert (every & below).any()
    assert not (drawn & below).any()
    assert np.array_equal(every & ~below, drawn)


def test_the_surest_is_on_top():
    image, _, _ = scene()
    boxes, masks = np.float32([[50, 50, 250, 250]] * 2), np.ones((2, 400, 400), dtype=bool)
    picture = draw_instances(image, boxes, ['', ''], (RED, BLUE), masks, ['boxes'])
    assert tuple(picture[50, 100]) == RED
    assert draw_instances(image, boxes[:0], [], [], masks[:0]).tolist() == image.tolist()


def test_boxes_beyond_the_image_and_without_area():
    image, _, _ = scene()
    beyond = np.float32([[-30, -5, 500, 420], [7, 7, 7, 7]])
    lines = changed(['boxes', 'names'], image, beyond, None)
    assert lines[0].all()
    assert lines[:, -1].all()


@pytest.mark.parametrize('parts', [['boxes'], ['masks'], ['names'], ['boxes', 'masks'], None])
def test_a_predictor_draws_what_was_asked_for(trained, tmp_path, parts):
    file = photo(tmp_path / 'a.png')
    predict = Predictor(*trained['detection'], score_thr=0.0, draw=parts)
    (result,) = predict(file)
    names = [f'{predict.classes[k]} {100 * s:.0f}' for k, s in zip(result.labels, result.scores, strict=True)]
    palette = predict._inferencer.visualizer.dataset_meta['palette']
    colors = [palette[k] for k in result.labels]
    expected = draw_instances(read_image(file), result.boxes, names, colors, result.masks, parts)
    assert np.array_equal(result.picture, expected)


def test_what_cannot_be_drawn(trained):
    with pytest.raises(ValueError, match='boxes, masks, names'):
        Predictor(*trained['detection'], draw=['labels'])
    with pytest.raises(ValueError, match='detection only'):
        Predictor(*trained['segmentation'], draw=['names'])
