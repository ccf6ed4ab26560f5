"""Contract: every readable image of a folder, in a fixed order; all others named and counted; nothing ever replaced."""

import errno
import logging
import os
import pickle

import numpy as np
import pytest
from mmengine.logging import MMLogger
from mmpretrain.registry import DATASETS
from PIL import Image

from randsac_mm.datasets import UnlabelledImageFolder, UnreadableImageError, find_image_files

NAMES = ['a/1.jpg', 'a/b/c/2.PNG', 'z.jpeg', '\u732b/\u4e00 x.webp']
TRUNCATED, EMPTY, TEXT = 'a/truncated.jpg', 'empty.png', 'b/renamed.jpg'


@pytest.fixture
def log():
    """What mmengine logs, as a list of records."""
    records = []
    handler = logging.Handler(logging.INFO)
    handler.emit = records.append
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def save(path, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.randint(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path):
    """A folder with four images and much that is none."""
    root = tmp_path / 'photos'
    for name in (*NAMES, TRUNCATED, '.hidden.jpg', '.thumbs/x.jpg'):
        save(root / name)
    content = (root / TRUNCATED).read_bytes()
    (root / TRUNCATED).write_bytes(content[: len(content) // 2])
    (root / 'b').mkdir()
    for name in (EMPTY, TEXT, 'notes.txt', 'README'):
        (root / name).write_text('' if name == EMPTY else 'no image')
    return root


def read(folder, **options) -> UnlabelledImageFolder:
    """Read a folder; without serialising, which costs mmengine a garbage collection each time."""
    return UnlabelledImageFolder(str(folder), serialize_data=False, **options)


def names(dataset: UnlabelledImageFolder) -> list[str]:
    return [os.path.relpath(dataset.get_data_info(i)['img_path'], dataset.data_root) for i in range(len(dataset))]


def test_finds_images_in_order_and_names_the_rest(photos, log):
    assert names(read(photos)) == NAMES
    (record,) = log
    text = record.getMessage()
    assert record.levelname == 'WARNING'
    for part in ('4 images, 5 skipped', '3 unreadable', f'{TRUNCATED}: ', f'{EMPTY}: empty', f'{TEXT}: ', 'README'):
        assert part in text
    assert '2 of other types (no ending 1, .txt 1)' in text
    assert 'hidden' not in text


def test_the_log_names_ten_files_and_warns_of_none(tmp_path, log):
    save(tmp_path / 'good.jpg')
    read(tmp_path)
    for i in range(13):
        (tmp_path / f'{i:02}.jpg').touch()
    read(tmp_path)
    assert [record.levelname for record in log] == ['INFO', 'WARNING']
    text = log[1].getMessage()
    assert '09.jpg' in text
    assert '10.jpg' not in text
    assert '3 more' in text


def test_checks_differ_in_what_they_find(photos):
    whole = (photos / NAMES[1]).read_bytes()
    half = len(whole) // 2
    (photos / NAMES[1]).write_bytes(whole[:half] + bytes(50) + whole[half + 50 :])  # damage in the middle
    assert names(read(photos, check='decode')) == [NAMES[0], *NAMES[2:]]
    assert names(read(photos, check='header')) == NAMES
    assert len(read(photos, check='none')) == 7


def test_nothing_is_replaced(photos):
    dataset = read(photos, pipeline=[{'type': 'LoadImageStrict'}], check='none')
    with pytest.raises(UnreadableImageError, match=r"truncated\.jpg: .*check='decode'"):
        dataset[names(dataset).index(TRUNCATED)]
    with pytest.raises(ValueError, match=r'None for .*z\.jpeg'):
        read(photos, pipeline=[lambda results: None])[2]


def test_links_are_followed_once(photos, tmp_path):
    save(tmp_path / 'elsewhere' / 'x.jpg')
    (photos / 'link').symlink_to(tmp_path / 'elsewhere')
    (photos / 'again').symlink_to(tmp_path / 'elsewhere')
    (photos / 'a' / 'up').symlink_to(photos)  # a circle
    (photos / 'broken.jpg').symlink_to(tmp_path / 'nowhere')
    assert names(read(photos)) == sorted([*NAMES, 'again/x.jpg'])


def test_search_of_a_folder(photos, tmp_path):
    (photos / 'broken.jpg').symlink_to(tmp_path / 'nowhere')
    everything = sorted([*NAMES, TRUNCATED, EMPTY, TEXT, 'broken.jpg'])
    assert find_image_files(photos) == [photos / name for name in everything]
    (photos / 'link').symlink_to(photos / 'a')
    kept = find_image_files(photos, skip=[photos / 'b' / '..' / 'a'])
    assert kept == [photos / name for name in everything if not name.startswith('a/')]
    assert len(find_image_files(photos / 'a', skip=[photos / 'a', photos])) == 3, 'skipped in a folder above only'
    with pytest.raises(FileNotFoundError, match='nowhere'):
        find_image_files(tmp_path / 'nowhere')


def test_name_that_is_no_utf8(tmp_path, log):
    try:
        open(os.path.join(os.fsencode(tmp_path), b'\xff.jpg'), 'wb').close()
    except OSError:
        pytest.skip('this file system takes UTF-8 only')
    save(tmp_path / 'good.jpg')
    assert names(read(tmp_path)) == ['good.jpg']
    assert '\\udcff.jpg: empty' in log[0].getMessage()


def test_folder_without_permission_is_named(photos, log, monkeypatch):
    scandir = os.scandir  # refused here, because root may read everything

    def refuse(path):
        if os.path.basename(path) == 'b':
            raise PermissionError(errno.EACCES, 'Permission denied', path)
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', refuse)
    assert names(read(photos)) == [NAMES[0], *NAMES[2:]]
    assert 'a/b: Permission denied' in log[0].getMessage()
    with pytest.raises(PermissionError, match='a/b'):
        find_image_files(photos)


def test_nothing_to_read(tmp_path):
    with pytest.raises(ValueError, match="check='full'"):
        read(tmp_path, check='full')
    with pytest.raises(FileNotFoundError, match='/no/such/folder'):
        read('/no/such/folder')
    with pytest.raises(FileNotFoundError, match='0 unreadable'):
        read(tmp_path)
    (tmp_path / 'a.jpg').touch()
    (tmp_path / 'a.csv').touch()
    with pytest.raises(FileNotFoundError, match=r'1 unreadable .*\.csv 1.*\.jpeg'):
        read(tmp_path)


def test_behaves_as_a_data_set_of_mmpretrain(photos):
    cfg = {'type': 'UnlabelledImageFolder', 'data_root': str(photos), 'indices': 3}
    dataset = DATASETS.build(cfg)
    assert names(dataset.get_subset([2, 0])) == [NAMES[2], NAMES[0]]
    assert names(pickle.loads(pickle.dumps(dataset))) == NAMES[:3]  # as spawned workers receive it
    assert DATASETS.build({**cfg, 'lazy_init': True})[0]['img_path'] == str(photos / NAMES[0])
