"""Attacks on caches: after any damage the pixels or facts are right, a line is in the log, and nothing is raised.

python -m pytest tests/reliability/test_caches.py
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from randsac_mm.datasets import CachedImages, UnreadableImageError
from randsac_mm.datasets.coco import prepare_coco
from randsac_mm.datasets.pixel_store import INDEX, INFO, PIXELS
from randsac_mm.datasets.scan import scan_images


def flip(path, place, mask=0x40):
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= mask
    path.write_bytes(content)


DAMAGES = {
    'truncated': lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    'empty': lambda path: path.write_bytes(b''),
    'longer': lambda path: path.write_bytes(path.read_bytes() + b'0'),
    'first byte': lambda path: flip(path, 0),
    'byte in the middle': lambda path: flip(path, 0.5),
    'last bit': lambda path: flip(path, 1, 1),
    'zeroed': lambda path: path.write_bytes(bytes(path.stat().st_size)),
    'text': lambda path: path.write_text('no space left on device'),
    'other JSON': lambda path: path.write_text('{"images": [[1, 1e999], {"a": null}], "version": 2}'),
    'deep JSON': lambda path: path.write_text('[' * 100_000),
    'folder': lambda path: (path.unlink(), path.mkdir(), (path / 'file').touch()),
    'missing': Path.unlink,
    'broken link': lambda path: (path.unlink(), path.symlink_to('nowhere')),
}


def change_index(change):
    return lambda folder: np.save(folder / INDEX, change(np.load(folder / INDEX)))


def exchange_file(folder):
    """Change a file behind the cache, of the same size and time."""
    path = folder.parent.parent / 'photos' / '00.bmp'
    before = path.stat()
    flip(path, 0.9)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


STORES = {
    f'{name}, {kind}': lambda folder, name=name, damage=damage: damage(folder / name)
    for name in (PIXELS, INDEX, INFO)
    for kind, damage in DAMAGES.items()
} | {
    'rows swapped': change_index(lambda index: index[::-1]),
    'offsets shifted': change_index(lambda index: index + np.array([3, 0, 0, 0, 0, 0, 0])),
    'objects': change_index(lambda index: index.astype(object)),
    'a file': lambda folder: (shutil.rmtree(folder), folder.write_text('')),
    'a broken link': lambda folder: (shutil.rmtree(folder), folder.symlink_to('nowhere')),
    'empty': lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    'of an older version': lambda folder: (folder / INFO).write_text('{"version": 1, "images": 20, "bytes": 1}'),
    'not of its files': exchange_file,
}


@pytest.fixture
def logged(monkeypatch, tmp_path):
    """Return a list of what the caches write into the log."""
    lines = []
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'home'))
    for module in ('pixel_store', 'scan', 'coco'):
        monkeypatch.setattr(f'randsac_mm.datasets.{module}.print_log', lambda text, *args: lines.append(text))
    return lines


@pytest.fixture
def photos(tmp_path):
    (tmp_path / 'photos').mkdir()
    for number in range(20):
        pixels = np.random.randint(0, 256, (4, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / 'photos' / f'{number:02}.bmp')
    return tmp_path / 'photos'


def cached(photos):
    options = dict(data_root=str(photos), cache_dir=str(photos.parent / 'cache'), serialize_data=False)
    return CachedImages([dict(type='LoadImageStrict')], short_side=4, **options)


def pixels(dataset):
    return [item['img'].tobytes() for item in dataset]


@pytest.mark.slow
@pytest.mark.parametrize('damage', STORES.values(), ids=STORES)
def test_pixel_store(photos, logged, damage):
    folder = cached(photos).folder
    damage(folder)
    expected = [np.asarray(Image.open(path))[..., ::-1].tobytes() for path in sorted(photos.iterdir())]
    assert pixels(cached(photos)) == expected
    assert len(logged) == 1
    assert pixels(cached(photos)) == expected
    logged.clear()
    assert pixels(cached(photos)) == expected
    assert not logged, 'it is sound again'
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, f'{folder.name}.lock']


def test_images_found_damaged_in_training(photos, logged):
    """Images 4 and 9 are in no sample: they are read from their files, and the next start makes the cache anew."""
    expected, dataset = pixels(cached(photos)), cached(photos)
    with open(dataset.folder / PIXELS, 'r+b') as file:
        for offset in np.load(dataset.folder / INDEX)[[4, 9], 0].tolist():
            file.seek(offset)
            file.write(b'\0\0\0\0')
    for _ in range(2):
        assert pixels(dataset) == expected
    assert len(logged) == 1
    assert 'image 4' in logged[0]
    (photos / '04.bmp').rename(photos.parent / '04.bmp')
    with pytest.raises(UnreadableImageError, match=r'04\.bmp'):
        dataset[4]
    (photos.parent / '04.bmp').rename(photos / '04.bmp')
    assert dataset.verify() == 2
    assert cached(photos).verify() == 0


@pytest.mark.parametrize('way', ['lock', 'cache_dir'])
def test_a_cache_that_cannot_be_written(photos, way):
    folder = cached(photos).folder
    shutil.rmtree(folder)
    if way == 'lock':
        DAMAGES['folder'](folder.with_name(f'{folder.name}.lock'))
    else:
        folder.parent.rename(folder.parent.parent / 'other')
        folder.parent.write_text('')
    with pytest.raises(OSError, match=r'^\[Errno \d+\] .*set another cache_dir.*$'):
        cached(photos)


@pytest.mark.slow
@pytest.mark.parametrize('damage', DAMAGES)
@pytest.mark.parametrize('pattern', ['scans/*', 'annotations/*.memory', 'annotations/*[!y]'])
def test_memory_of_scans_and_annotations(photos, logged, tmp_path, monkeypatch, pattern, damage):
    images = [dict(id=number, file_name=f'{number:02}.bmp', height=4, width=9) for number in range(20)]
    records = [dict(id=1, image_id=1, category_id=1, bbox=[1, 1, 3, 3])]  # without area and iscrowd
    data = dict(images=images, annotations=records, categories=[dict(id=1, name='ball')])
    (tmp_path / 'a.json').write_text(json.dumps(data))

    def prepare():
        dataset = dict(type='CocoDataset', ann_file=str(tmp_path / 'a.json'), metainfo=dict(classes=('ball',)))
        cfg = Config(dict(train_dataloader=dict(dataset=dict(dataset, data_prefix=dict(img=str(photos))))))
        [report] = prepare_coco(cfg, ['train'])
        copy = Path(cfg.train_dataloader.dataset.ann_file)
        return json.loads(copy.read_text()), report, scan_images(sorted(map(str, photos.iterdir())))

    expected = prepare()
    [path] = (tmp_path / 'home' / 'randsac_mm').glob(pattern)
    DAMAGES[damage](path)
    assert prepare() == expected
    assert len(logged) == (damage not in ('missing', 'broken link') or path.suffix == '.json')
    logged.clear()
    monkeypatch.setattr('randsac_mm.datasets.scan.find_fault', None)
    assert prepare() == expected, 'remembered'
    assert not logged
