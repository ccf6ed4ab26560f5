"""A mask is the numbers of its file, of the size of its image, as indices of classes; or an error names it."""

import numpy as np
import pytest
from datasets.image_files import exif, png
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from randsac_mm.datasets import LoadMaskStrict, UnreadableImageError, read_mask

NUMBERS = np.array([[0, 1, 2], [7, 200, 255]], np.uint8)


def test_numbers_are_read_as_stored(tmp_path):
    grey = Image.fromarray(NUMBERS)
    palette = Image.frombytes('P', (3, 2), NUMBERS.tobytes())
    palette.putpalette([9, 9, 9, 8, 8, 8] * 128)  # two colours only
    opaque = Image.new('L', (3, 2), 255)
    files = {'l.png': grey, 'p.png': palette, 'p.tif': palette, 'l.bmp': grey, 'l.pgm': grey}
    files |= {
        'la.png': Image.merge('LA', (grey, opaque)),
        'rgb.tif': grey.convert('RGB'),
        'rgba.png': grey.convert('RGBA'),
    }
    for name, image in files.items():
        image.save(tmp_path / name)
        assert read_mask(tmp_path / name).dtype == np.uint8
        np.testing.assert_array_equal(read_mask(tmp_path / name), NUMBERS, name)
    Image.fromarray(NUMBERS > 1).save(tmp_path / 'bits.png')
    np.testing.assert_array_equal(read_mask(tmp_path / 'bits.png'), NUMBERS > 1)
    grey.save(tmp_path / 'turned.tif', exif=exif(6))
    np.testing.assert_array_equal(read_mask(tmp_path / 'turned.tif'), np.rot90(NUMBERS, -1))


@pytest.mark.parametrize('bits', [1, 2, 4, 8, 16])
def test_png_of_any_depth(tmp_path, bits):  # Pillow scales 2 and 4 bits to 8
    values = np.array([[0, 1, 2**bits - 1, 2**bits // 3]])
    (tmp_path / 'a.png').write_bytes(png(values[..., None], bits, 0))
    np.testing.assert_array_equal(read_mask(tmp_path / 'a.png'), values)


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5), st.sampled_from(['<u2', '>u2', 'i4']))
def test_large_numbers_are_never_wrapped(tmp_path_factory, values, dtype):
    values = np.array([values]) % (2**16 if '2' in dtype else 2**31)
    path = tmp_path_factory.mktemp('large') / 'a.tif'
    Image.fromarray(values.astype(dtype)).save(path)
    np.testing.assert_array_equal(read_mask(path), values)
    assert read_mask(path).dtype == (np.uint8 if values.max() < 256 else np.int32)


COLOURS = np.array([[[9, 9, 8, 255], [9, 9, 9, 255]]], np.uint8)
CLEAR = np.array([[[9, 9, 9, 254], [9, 9, 9, 255]]], np.uint8)
REFUSED = {
    'colours.png': lambda path: Image.fromarray(COLOURS[..., :3]).save(path),
    'rgba.png': lambda path: Image.fromarray(COLOURS).save(path),
    'clear.png': lambda path: Image.fromarray(CLEAR).save(path),
    'la.png': lambda path: Image.fromarray(CLEAR).convert('LA').save(path),
    'colours16.png': lambda path: path.write_bytes(png(np.full((2, 2, 3), 7), 16, 2)),  # Pillow reads 0
    'lossy.jpg': lambda path: Image.fromarray(NUMBERS).save(path, quality=100),
    'lossy.png': lambda path: Image.fromarray(NUMBERS).save(path, 'JPEG'),
    'lossy.webp': lambda path: Image.fromarray(NUMBERS).save(path),
    'lossy.tif': lambda path: Image.fromarray(NUMBERS).save(path, compression='jpeg'),
    'float.tif': lambda path: Image.fromarray(NUMBERS / np.float32(9)).save(path),
    'negative.tif': lambda path: Image.fromarray(NUMBERS.astype(np.int32) - 1).save(path),
    'inverted.pbm': lambda path: Image.fromarray(NUMBERS > 1).save(path),
    'scaled.pgm': lambda path: path.write_bytes(b'P5 3 1 10\n\0\5\n'),  # Pillow reads 0, 128, 255
    'stack.tif': lambda path: Image.fromarray(NUMBERS).save(
        path, save_all=True, append_images=[Image.new('L', (3, 2))]
    ),
    'empty.png': lambda path: path.touch(),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_not_one_number_a_pixel(tmp_path, name):
    REFUSED[name](tmp_path / name)
    with pytest.raises(UnreadableImageError, match=f'{name}: '):
        read_mask(tmp_path / name)


def load(folder, values, size=None, step=None, **results):
    """Return the mask of values, or the error, after the transform."""
    values = np.array(values)
    Image.fromarray(values.astype(np.uint8 if values.max() < 256 else np.uint16)).save(folder / 'mask.png')
    results = {'seg_map_path': str(folder / 'mask.png'), 'seg_fields': [], 'reduce_zero_label': False, **results}
    results = (step or LoadMaskStrict()).transform({'ori_shape': size or values.shape, **results})
    assert results['seg_fields'] == ['gt_seg_map']
    return results['gt_seg_map']


def test_mask_of_another_size(tmp_path):
    with pytest.raises(ValueError, match=r'mask\.png: .*\(1, 3\).*\(1, 4\)'):
        load(tmp_path, [[1, 2, 3]], size=(1, 4))
    with pytest.raises(ValueError, match=r'mask\.png: .*\(1, 3\).*\(3, 1\).*EXIF.*raw'):
        load(tmp_path, [[1, 2, 3]], size=(3, 1))


def test_values_of_classes(tmp_path):
    mask = load(tmp_path, [[0, 255, 11, 300]], mask_values={0: 1, 255: 0, 11: 255, 300: 2})
    assert mask.tolist() == [[1, 0, 255, 2]]
    assert mask.dtype == np.uint8
    with pytest.raises(ValueError, match=r'mask\.png: value 2 in 1 pixels, 7 in 2 pixels.* \[0, 1\]'):
        load(tmp_path, [[0, 7, 7, 2]], mask_values={0: 0, 1: 1})
    with pytest.raises(ValueError, match='65535 in 1 pixels'):
        load(tmp_path, [[0, 65535]], mask_values={0: 0, 255: 1})


@given(
    st.lists(st.integers(0, 255), min_size=2, max_size=9),
    st.booleans(),
    st.none() | st.dictionaries(st.integers(0, 9), st.integers(0, 9) | st.just(255)),
)
def test_without_values_the_numbers_are_those_of_mmseg(tmp_path_factory, values, reduce, label_map):
    from mmseg.datasets.transforms import LoadAnnotations

    folder = tmp_path_factory.mktemp('masks')
    options = dict(reduce_zero_label=reduce, label_map=label_map)
    expected = load(folder, [values, values], step=LoadAnnotations(), **options)
    np.testing.assert_array_equal(load(folder, [values, values], **options), expected)


def test_numbers_above_255_stay_above_it(tmp_path):
    assert load(tmp_path, [[0, 1, 256, 65535]], reduce_zero_label=True).tolist() == [[255, 0, 256, 65535]]
    with pytest.raises(ValueError, match='reduce_zero_label=True'):
        load(tmp_path, [[1]], step=LoadMaskStrict(reduce_zero_label=True))


def test_prediction_has_no_mask():
    assert LoadMaskStrict().transform({'img': 1}) == {'img': 1}


def test_numbers_above_255_pass_mmseg_pipeline(tmp_path):
    from mmseg.registry import TRANSFORMS

    mask = np.kron(np.array([[0, 300], [5, 255]]), np.ones((20, 30), int))
    Image.fromarray(mask.astype(np.uint16)).save(tmp_path / 'mask.png')
    results = dict(img=np.zeros((40, 60, 3), np.uint8), img_shape=(40, 60), ori_shape=(40, 60), seg_fields=[])
    results |= dict(img_path='', seg_map_path=str(tmp_path / 'mask.png'), reduce_zero_label=False)
    for step in (
        dict(type='LoadMaskStrict'),
        dict(type='RandomResize', scale=(120, 80), ratio_range=(1.0, 1.0), keep_ratio=True),
        dict(type='RandomCrop', crop_size=(64, 96), cat_max_ratio=0.75),
        dict(type='RandomFlip', prob=1.0),
        dict(type='PackSegInputs'),
    ):
        results = TRANSFORMS.build(step).transform(results)
    assert set(results['data_samples'].gt_sem_seg.data.unique().tolist()) == {0, 5, 255, 300}
