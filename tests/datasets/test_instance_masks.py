"""Masks of instances come back from the annotation file exactly: every pixel, box and area, and whose they are."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_mask

from randsac_mm.datasets.instance_masks import encode_instances, masks_to_coco

SIZE = (7, 11)


@given(arrays(np.uint16, SIZE, elements=st.sampled_from([0, 0, 1, 2, 300, 65535])))
def test_masks_boxes_and_areas_come_back(labels):
    """Touching instances stay apart, one of several parts stays one: each value is one instance."""
    records = encode_instances(labels)
    values = sorted(set(labels.flat) - {0})
    assert len(records) == len(values)
    for value, record in zip(values, records, strict=True):
        mask = coco_mask.decode(record['segmentation'])
        assert np.array_equal(mask, labels == value)
        rows, columns = np.nonzero(mask)
        x, y, w, h = record['bbox']
        assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert (record['area'], record['iscrowd']) == (len(rows), 0)
        assert np.array_equal(coco_mask.toBbox(record['segmentation']), record['bbox'])
    json.dumps(records)


def save(path: Path, pixels: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Images a.jpg, a_b.jpg and sub/c.jpg."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    for name in ('a', 'a_b', 'sub/c'):
        save(tmp_path / 'images' / f'{name}.jpg', np.zeros((*SIZE, 3), np.uint8))
    return tmp_path


def square(*numbers: int, dtype=np.uint8) -> np.ndarray:
    """Pixels with a row of each value, row 0 for the first, columns 2 to 5."""
    pixels = np.zeros(SIZE, dtype)
    for row, number in enumerate(numbers):
        pixels[row, 2:6] = number
    return pixels


def read(folder, classes=('cell',)):
    """Return (file name, class, box) of every instance, and the notes."""
    data, notes = masks_to_coco(folder / 'images', folder / 'masks', classes)
    images = {image['id']: image['file_name'] for image in data['images']}
    names = {category['id']: category['name'] for category in data['categories']}
    records = data['annotations']
    assert [record['id'] for record in records] == list(range(1, len(records) + 1))
    return [(images[r['image_id']], names[r['category_id']], r['bbox']) for r in records], notes


FIRST, SECOND = [2, 0, 4, 1], [2, 1, 4, 1]


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_one_label_image_an_image(folder, dtype):
    for name in ('a', 'a_b', 'sub/c'):
        save(folder / 'masks' / f'{name}.png', square(3, 1, dtype=dtype))
    found, notes = read(folder)
    names = ('a.jpg', 'a_b.jpg', 'sub/c.jpg')
    assert found == [(name, 'cell', box) for name in names for box in (SECOND, FIRST)], 'in the order of the values'
    assert notes == []


@pytest.mark.parametrize('pattern', ['{}/{}.png', '{}_{}.png'])
def test_one_file_an_instance(folder, pattern):
    """The longest name of an image counts: a_b_1.png is no mask of a.jpg."""
    for name in ('a', 'a_b', 'sub/c'):
        save(folder / 'masks' / pattern.format(name, 1), square(255))
        save(folder / 'masks' / pattern.format(name, 2), square(0, 255))
    found, notes = read(folder)
    assert found == [(name, 'cell', box) for name in ('a.jpg', 'a_b.jpg', 'sub/c.jpg') for box in (FIRST, SECOND)]
    assert notes == []
    save(folder / 'masks' / pattern.format('a', 2), square(0, 255, 254))
    with pytest.raises(ValueError, match='2 values'):
        read(folder)


def test_one_folder_a_class(folder):
    save(folder / 'masks' / 'box' / 'a.png', square(1))
    save(folder / 'masks' / 'ball' / 'a.png', square(0, 1))
    assert read(folder, ['ball', 'box'])[0] == [('a.jpg', 'ball', SECOND), ('a.jpg', 'box', FIRST)]


def test_what_is_left_out_is_counted(folder):
    save(folder / 'masks' / 'a.png', square())
    save(folder / 'masks' / 'sub' / 'd.png', square(1))
    save(folder / 'masks' / 'a_b.png', square(255, 0, 255))
    found, (without_mask, without_image, semantic) = read(folder)
    assert found == [('a_b.jpg', 'cell', [2, 0, 4, 3])], 'a mask of zeros: nothing is there'
    assert 'a_b.png' in semantic
    assert '1 (sub/c)' in without_mask
    assert 'd.png' in without_image


def test_what_cannot_be_right_is_refused(folder):
    (folder / 'masks').mkdir()
    with pytest.raises(ValueError, match=r'masks.*3 images'):
        read(folder)
    save(folder / 'masks' / 'a.png', square(1).T)
    with pytest.raises(ValueError, match=r'a\.png.*7.*11.*a\.jpg.*11 x 7'):
        read(folder)
    save(folder / 'images' / 'a.png', square(1))
    with pytest.raises(ValueError, match='ending'):
        read(folder)


def test_turned_photographs_have_upright_masks(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(folder / 'images' / 'a.jpg', np.zeros((*SIZE[::-1], 3), np.uint8), exif=exif)
    save(folder / 'masks' / 'a.png', square(1))
    assert read(folder)[0] == [('a.jpg', 'cell', FIRST)]


def test_tool(folder, run_tool, capsys):
    save(folder / 'masks' / 'a.png', square(1, 2))
    out = folder / 'new' / 'train.json'
    run_tool('masks_to_coco.py', folder / 'images', folder / 'masks', '--out', out, '--classes', 'cell')
    assert len(json.loads(out.read_text())['annotations']) == 2
    assert 'a_b, sub/c' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='gone'):
        run_tool('masks_to_coco.py', folder / 'gone', folder / 'masks', '--out', out)
