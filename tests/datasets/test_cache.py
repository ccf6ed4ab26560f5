"""A cache has every image once, reduced; it is complete or not there, and fits its files or is not used."""

import errno
import os
import pickle
import threading
import time

import numpy as np
import pytest
from mmpretrain.registry import DATASETS
from PIL import Image

from randsac_mm.datasets import CachedImages, UnlabelledImageFolder, UnreadableImageError, pixel_store
from randsac_mm.datasets.pixel_store import open_or_build

SIZES = [(31, 47), (40, 20), (13, 17), (20, 20), (97, 33)]  # height, width
LOAD = {'type': 'LoadImageStrict'}
IMAGES = [np.full((2, 3, 3), 7, np.uint8), np.arange(20, dtype=np.uint8).reshape(4, 5)]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    (folder / 'deeper').mkdir(parents=True)
    for number, (height, width) in enumerate(SIZES):
        small = np.random.randint(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize((width, height)).save((folder, folder / 'deeper')[number % 2] / f'{number}.png')
    return folder


def cached(photos, **options):
    defaults = {
        'data_root': str(photos),
        'pipeline': [LOAD],
        'short_side': 20,
        'cache_dir': str(photos.parent / 'cache'),
        'serialize_data': False,  # to which mmengine adds a garbage collection, half a second
    }
    return CachedImages(**{**defaults, **options})


def stores(photos):
    return sorted(path.name for path in (photos.parent / 'cache').iterdir() if path.suffix != '.lock')


def decoded(monkeypatch):
    """Return a list of what is decoded from now on, but for the sample that every start compares."""
    monkeypatch.setattr(CachedImages, '_compare', lambda self, store, paths: store)
    calls = []
    real = CachedImages._decode
    monkeypatch.setattr(CachedImages, '_decode', lambda self, path: calls.append(path) or real(self, path))
    return calls


def test_images_are_those_of_the_files_with_a_shorter_side(photos):
    dataset = cached(photos)
    files = DATASETS.build(dict(type='UnlabelledImageFolder', data_root=str(photos), pipeline=[LOAD]))
    assert len(dataset) == len(files) == len(SIZES)
    for item, expected in zip(dataset, files, strict=True):
        height, width = expected['img'].shape[:2]
        scale = min(1, 20 / min(height, width))
        assert item['img'].shape == item['img_shape'] + (3,) == (round(height * scale), round(width * scale), 3)
        assert item['ori_shape'] == (height, width)
        assert item['img_path'] == expected['img_path']
        assert item['img'].flags.writeable
        reduced = Image.fromarray(expected['img']).resize(item['img'].shape[1::-1], Image.Resampling.BICUBIC)
        assert np.array_equal(item['img'], expected['img'] if scale == 1 else reduced)


def test_a_second_start_decodes_nothing(photos, monkeypatch):
    first = cached(photos)
    calls = decoded(monkeypatch)
    again = cached(photos)
    assert all(np.array_equal(first[i]['img'], again[i]['img']) for i in range(len(SIZES)))
    moved = photos.rename(photos.parent / 'elsewhere')
    os.mkdir(photos)
    moved.rename(photos / 'photos')
    cached(photos / 'photos', cache_dir=str(photos.parent / 'cache'))
    assert not calls, 'names count relative to the folder'


def test_another_content_or_recipe_makes_another_cache(photos, monkeypatch):
    cached(photos)
    calls = decoded(monkeypatch)
    cached(photos, short_side=19)
    assert len(calls) == 5
    os.utime(photos / '0.png', ns=(1, 1))
    cached(photos)
    assert len(calls) == 10
    Image.new('RGB', (9, 9)).save(photos / '9.png')
    assert len(cached(photos)) == 6
    assert len(calls) == 16
    cached(photos, indices=2)
    assert len(calls) == 18, 'part of the images is another list'
    assert cached(photos, pipeline=[{**LOAD, 'color_type': 'grayscale'}])[4]['img'].ndim == 2
    assert len(stores(photos)) == 6


def test_labelled_folders_keep_their_labels(photos):
    (photos / 'cats').mkdir()
    for path in photos.glob('*.png'):
        path.rename(photos / 'cats' / path.name)
    dataset = cached(photos, source='CustomDataset', pipeline=[{'type': 'LoadImageFromFile'}])
    assert [dataset[i]['gt_label'] for i in range(5)] == [0, 0, 0, 1, 1]
    assert dataset.metainfo['classes'] == ('cats', 'deeper')
    assert dataset.get_cat_ids(4) == [1]


def test_the_rest_of_the_pipeline_goes_on_in_a_spawned_worker_without_the_pixels(photos):
    sent = pickle.dumps(cached(photos, pipeline=[LOAD, {'type': 'Resize', 'scale': (16, 16)}, {'type': 'PackInputs'}]))
    assert len(sent) < 4000 + 200 * len(SIZES)
    assert pickle.loads(sent)[1]['inputs'].shape == (3, 16, 16)


@pytest.mark.parametrize('loader', ['LoadImageStrict', 'LoadImageFromFile'])
def test_an_unreadable_image_is_named_and_nothing_remains(photos, loader):
    (photos / '4.png').write_bytes(b'no image')
    with pytest.raises(UnreadableImageError, match=r'4\.png: '):
        cached(photos, check='none', pipeline=[{'type': loader}])
    assert stores(photos) == []
    assert len(cached(photos)) == 4, "the folder's own check skips it"


def test_a_crash_leaves_nothing_that_is_used(photos, monkeypatch):
    def killed(self, path):
        if path.endswith('2.png'):
            raise KeyboardInterrupt
        return np.zeros((2, 2, 3), np.uint8), (2, 2)

    with monkeypatch.context() as patch:
        patch.setattr(CachedImages, '_decode', killed)
        patch.setattr(pixel_store.shutil, 'rmtree', lambda *args, **kwargs: None)  # as if there had been no time
        with pytest.raises(KeyboardInterrupt):
            cached(photos)
    [partial] = stores(photos)
    assert partial.endswith('.building')
    assert cached(photos)[0]['img'].any()
    assert [name for name in stores(photos) if 'building' in name] == []


def test_of_two_processes_one_builds_and_the_other_waits(photos, monkeypatch):
    calls, found, logged = decoded(monkeypatch), [], []
    monkeypatch.setattr(pixel_store, 'print_log', lambda text, *args: logged.append(text))
    second = threading.Thread(target=lambda: found.append(cached(photos)[1]['img']))
    real = pixel_store._write

    def write(*args):
        second.start()
        for _ in range(500):
            if logged:
                break
            time.sleep(0.01)
        real(*args)

    monkeypatch.setattr(pixel_store, '_write', write)
    first = cached(photos)
    second.join()
    assert len(logged) == 1, 'the second waits'
    assert len(calls) == 5
    assert np.array_equal(found[0], first[1]['img'])


def test_a_full_disk_is_named(tmp_path):
    def full():
        yield IMAGES[0], (2, 3)
        raise OSError(errno.ENOSPC, 'No space left on device')

    with pytest.raises(OSError, match=r'store: .*cache_dir'):
        open_or_build(tmp_path / 'store', full)
    assert [path.name for path in tmp_path.iterdir()] == ['store.lock']


def test_what_cannot_be_cached(photos, monkeypatch):
    with pytest.raises(ValueError, match='short_side=0'):
        cached(photos, short_side=0)
    with pytest.raises(ValueError, match='float32'):
        cached(photos, pipeline=[{'type': 'LoadImageFromFile', 'to_float32': True}])
    monkeypatch.setattr(UnlabelledImageFolder, 'get_data_info', lambda self, index: {'img': 'pixels'})
    with pytest.raises(ValueError, match='img_path'):
        cached(photos)


def test_the_tool_makes_the_cache_that_training_uses(photos, root, run_tool, monkeypatch, capsys):
    options = [f'train_dataloader.dataset.{key}' for key in (f'data_root={photos}', f'cache_dir={photos.parent}/cache')]

    def run(*more):
        config = root / 'configs' / 'randsac' / 'vit-b_folder.py'
        run_tool('cache_images.py', config, '--cfg-options', *options, *more)

    run()
    out = capsys.readouterr().out
    [name] = stores(photos)
    assert f'5 images in {photos.parent}/cache/{name}' in out
    assert 'train_dataloader.dataset.type=CachedImages\n' in out
    calls = decoded(monkeypatch)
    run('train_dataloader.dataset.type=CachedImages', '--verify')
    assert not calls
    with pytest.raises(SystemExit, match=r'^cache_images.py: error: data_root=.*/none'):
        run(f'train_dataloader.dataset.data_root={photos}/none')
