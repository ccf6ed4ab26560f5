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


def flip(path: Path, place: float, mask: int = 0x40) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= mask
    path.write_bytes(content)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / 'file').touch()


def link_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / 'nowhere')


DAMAGES = {
    'truncated': lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    'empty': lambda path: path.write_bytes(b''),
    'shorter by a byte': lambda path: path.write_bytes(path.read_bytes()[:-1]),
    'longer': lambda path: path.write_bytes(path.read_bytes() + b'0'),
    'first byte': lambda path: flip(path, 0),
    'byte in the middle': lambda path: flip(path, 0.5),
    'last bit': lambda path: flip(path, 1, 1),
    'zeroed': lambda path: path.write_bytes(bytes(path.stat().st_size)),
    'text': lambda path: path.write_text('no space left on device'),
    'other JSON': lambda path: path.write_text('{"images": [[1, 1e999], {"a": null}], "version": 2}'),
    'deep JSON': lambda path: path.write_text('[' * 100_000),
    'missing': Path.unlink,
    'folder': make_folder,
    'broken link': link_nowhere,
}
every_damage = pytest.mark.parametrize('damage', DAMAGES.values(), ids=DAMAGES)


@pytest.fixture
def logged(monkeypatch):
    """Return a list of what the caches write into the log."""
    lines = []
    for module in ('pixel_store', 'scan', 'coco'):
        monkeypatch.setattr(f'randsac_mm.datasets.{module}.print_log', lambda text, *args: lines.append(text))
    return lines


@pytest.fixture
def photos(tmp_path):
    (tmp_path / 'photos').mkdir()
    for number in range(20):
        pixels = np.random.randint(0, 256, (5 + number % 3, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / 'photos' / f'{number:02}.bmp')
    return tmp_path / 'photos'


def cached(photos):
    return CachedImages(
        pipeline=[dict(type='LoadImageStrict')],
        data_root=str(photos),
        short_side=4,
        cache_dir=str(photos.parent / 'cache'),
        serialize_data=False,
    )


def pixels(dataset):
    return [item['img'].tobytes() for item in dataset]


def check_store(photos, logged, damage):
    """Damage a new store and read it, twice; return the lines in the log."""
    expected, folder = pixels(cached(photos)), cached(photos).folder
    assert not logged
    damage(folder)
    assert pixels(cached(photos)) == expected
    lines = list(logged)
    assert pixels(cached(photos)) == expected
    logged.clear()
    assert pixels(cached(photos)) == expected
    assert not logged, 'it is sound again'
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, f'{folder.name}.lock']
    return lines


@every_damage
@pytest.mark.parametrize('name', [PIXELS, INDEX, INFO])
def test_files_of_the_pixel_store(photos, logged, name, damage):
    assert check_store(photos, logged, lambda folder: damage(folder / name))


def change_index(change):
    def damage(folder):
        index = np.load(folder / INDEX)
        np.save(folder / INDEX, change(index), allow_pickle=True)

    return damage


def exchange_content(folder):
    path = folder.parent.parent / 'photos' / '00.bmp'
    before = path.stat()
    flip(path, 0.9)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


STORES = {
    'rows swapped': change_index(lambda index: index[::-1]),
    'offsets shifted': change_index(lambda index: index + np.array([3, 0, 0, 0, 0, 0, 0])),
    'other numbers': change_index(lambda index: index.astype(float)),
    'one row': change_index(lambda index: index[0]),
    'objects': change_index(lambda index: index.astype(object)),
    'a file': lambda folder: (shutil.rmtree(folder), folder.write_text('')),
    'a broken link': lambda folder: (shutil.rmtree(folder), folder.symlink_to('nowhere')),
    'empty': lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    'of an older version': lambda folder: (folder / INFO).write_text('{"version": 1, "images": 20, "bytes": 1}'),
}


@pytest.mark.parametrize('damage', STORES.values(), ids=STORES)
def test_pixel_store(photos, logged, damage):
    assert len(check_store(photos, logged, damage)) == 1


def test_a_file_that_changed_in_spite_of_its_size_and_date(photos, logged):
    before = pixels(cached(photos))
    exchange_content(cached(photos).folder)
    after = pixels(cached(photos))
    assert after[0] != before[0]
    assert after[1:] == before[1:]
    assert len(logged) == 1
    assert '00.bmp has changed' in logged[0]


def test_an_image_found_damaged_in_training(photos, logged):
    """Image 4 is in no sample: it is read from its file, and the next start makes the cache anew."""
    expected, dataset = pixels(cached(photos)), cached(photos)
    first = dataset.folder.stat().st_ino
    begin = int(np.load(dataset.folder / INDEX)[4, 0])
    with open(dataset.folder / PIXELS, 'r+b') as file:
        file.seek(begin)
        file.write(b'\0\0\0\0')
    for _ in range(2):
        assert pixels(dataset) == expected
    assert len(logged) == 1
    assert 'image 4' in logged[0]
    (photos / '04.bmp').rename(photos.parent / '04.bmp')
    with pytest.raises(UnreadableImageError, match=r'04\.bmp'):
        dataset[4]
    (photos.parent / '04.bmp').rename(photos / '04.bmp')
    assert pixels(again := cached(photos)) == expected
    assert again.folder.stat().st_ino != first


def test_verify_finds_every_damaged_image(photos, logged):
    dataset = cached(photos)
    offsets = np.load(dataset.folder / INDEX)[:, 0]
    with open(dataset.folder / PIXELS, 'r+b') as file:
        for number in (4, 9):
            file.seek(int(offsets[number]))
            file.write(b'\0\0\0\0')
    assert dataset.verify() == 2
    assert cached(photos).verify() == 0


@pytest.mark.parametrize('way', ['lock', 'cache_dir'])
def test_a_cache_that_cannot_be_written(photos, monkeypatch, way):
    if way == 'lock':
        folder = cached(photos).folder
        shutil.rmtree(folder)
        make_folder(folder.with_name(f'{folder.name}.lock'))
    else:
        (photos.parent / 'cache').write_text('')
    with pytest.raises(OSError, match='set another cache_dir') as error:
        cached(photos)
    assert '\n' not in str(error.value)


@every_damage
def test_memory_of_scans(photos, logged, tmp_path, monkeypatch, damage):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'home'))
    (photos / '03.bmp').write_bytes(b'')
    paths = sorted(map(str, photos.iterdir()))
    expected = scan_images(paths)
    [memory] = (tmp_path / 'home' / 'randsac_mm' / 'scans').iterdir()
    damage(memory)
    assert scan_images(paths) == expected
    assert len(logged) == (memory.exists() and damage not in (Path.unlink, link_nowhere))
    assert scan_images(paths) == expected
    monkeypatch.setattr('randsac_mm.datasets.scan.find_fault', None)
    assert scan_images(paths) == expected, 'remembered'


@every_damage
@pytest.mark.parametrize('ending', ['.memory', '.json'])
def test_memory_and_copies_of_annotations(photos, logged, tmp_path, monkeypatch, ending, damage):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'home'))
    images = [dict(id=number, file_name=f'{number:02}.bmp', height=5 + number % 3, width=9) for number in range(20)]
    records = [dict(id=1, image_id=1, category_id=1, bbox=[1, 1, 3, 3])]  # without area and iscrowd
    data = dict(images=images, annotations=records, categories=[dict(id=1, name='ball')])
    (tmp_path / 'a.json').write_text(json.dumps(data))

    def prepare():
        dataset = dict(type='CocoDataset', ann_file=str(tmp_path / 'a.json'), metainfo=dict(classes=('ball',)))
        dataset.update(data_prefix=dict(img=str(photos)))
        cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
        [report] = prepare_coco(cfg, ['train'])
        assert not report.errors
        return json.loads(Path(cfg.train_dataloader.dataset.ann_file).read_text()), report

    expected = prepare()
    folder = tmp_path / 'home' / 'randsac_mm' / 'annotations'
    [path] = [path for path in folder.iterdir() if path.suffix == ending]
    damage(path)
    assert prepare() == expected
    assert len(logged) == (ending == '.json' or damage not in (Path.unlink, link_nowhere))
    logged.clear()
    assert prepare() == expected
    assert not logged
