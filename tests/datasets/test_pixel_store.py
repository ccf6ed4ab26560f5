"""A store of images is complete or not there, and is checked when it is opened."""

import errno
import pickle

import numpy as np
import pytest

from randsac_mm.datasets import pixel_store
from randsac_mm.datasets.pixel_store import PixelStore, open_or_build

IMAGES = [np.full((2, 3, 3), 7, np.uint8), np.arange(20, dtype=np.uint8).reshape(4, 5), np.zeros((1, 1, 3), np.uint8)]


def images():
    return [(image, (10, 20)) for image in IMAGES]


def test_images_come_back(tmp_path):
    store = open_or_build(tmp_path / 'deep' / 'store', images, {'note': 'here'})
    store = pickle.loads(pickle.dumps(store))
    assert len(store) == 3
    assert all(np.array_equal(store.image(number), image) for number, image in enumerate(IMAGES))
    assert store.original_shape(1) == (10, 20)
    assert '"note": "here"' in (store.folder / 'info.json').read_text()
    open_or_build(store.folder, None, {})  # nothing is built again


def test_without_locks_the_first_to_finish_counts(tmp_path):
    folder = tmp_path / 'store'
    image = np.ones((2, 3, 3), np.uint8)

    def meanwhile():
        pixel_store._write(tmp_path / 'other', lambda: [(image, (2, 3))], {})
        (tmp_path / 'other').rename(folder)
        yield image * 2, (2, 3)

    assert open_or_build(folder, meanwhile, {}).image(0).max() == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ['store', 'store.lock']


def test_a_damaged_store_is_refused(tmp_path):
    folder = open_or_build(tmp_path / 'store', images, {}).folder
    with open(folder / 'pixels.u8', 'r+b') as file:
        file.truncate(20)
    with pytest.raises(ValueError, match=r'store.*\(3, 20\).*\(3, 41\)'):
        PixelStore(folder)
    (folder / 'info.json').write_text('{')
    with pytest.raises(ValueError, match='store'):
        open_or_build(folder, images, {})


def test_a_disk_that_is_full_after_all_is_named(tmp_path):
    def full():
        yield IMAGES[0], (2, 3)
        raise OSError(errno.ENOSPC, 'No space left on device')

    with pytest.raises(OSError, match=r'store: .*cache_dir'):
        open_or_build(tmp_path / 'store', full, {})
    assert [path.name for path in tmp_path.iterdir()] == ['store.lock']
