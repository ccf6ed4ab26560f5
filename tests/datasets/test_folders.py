"""Contract: every sound image of a folder, in a fixed order, with the label of its class or the mask of its own name.

All others are named and counted, nothing is replaced, and what is ambiguous is refused with its name.
"""

import errno
import logging
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmpretrain.registry import DATASETS
from PIL import Image

from randsac_mm.datasets import LabelledImageFolder, SegmentationFolder, UnlabelledImageFolder
from randsac_mm.datasets.images import UnreadableImageError, find_image_files
from randsac_mm.inference.preparation import describe_classes

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
    photos.rename(photos.with_name('train'))
    with pytest.raises(ValueError, match='train/a/b: Permission denied'):  # it might be a class
        LabelledImageFolder(str(photos.parent))


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


def write(root, *paths: str) -> str:
    """Write a small image for each path; one that ends in ``/`` is an empty folder."""
    for path in paths:
        (root / path).mkdir(parents=True) if path.endswith('/') else save(root / path, (5, 3))
    return str(root)


def labels(root, split: str = 'train', **options) -> dict[str, int]:
    """Return the label of each image by its path below the split."""
    data = LabelledImageFolder(str(root), split, serialize_data=False, **options)
    entries = [data.get_data_info(i) for i in range(len(data))]
    return {os.path.relpath(entry['img_path'], root / split): entry['gt_label'] for entry in entries}


TRAIN = ('train/ant/1.jpg', 'train/bee/1.JPG', 'train/cat/deep/1.webp')


@given(present=st.sets(st.sampled_from('abcdefgh'), min_size=1))
def test_labels_are_those_of_train_whatever_a_split_lacks(tmp_path_factory, present):
    root = tmp_path_factory.mktemp('data')
    for split, names in (('train', 'abcdefgh'), ('val', present)):
        write(root, *(f'{split}/{name}/1.ppm' for name in names))
    assert labels(root, 'val') == {f'{name}/1.ppm': 'abcdefgh'.index(name) for name in present}


def test_a_class_that_validation_lacks_is_named(tmp_path, log):
    write(tmp_path, *TRAIN, 'val/ant/2.png', 'val/cat/3.png', 'val/bee/')
    assert labels(tmp_path) == {'ant/1.jpg': 0, 'bee/1.JPG': 1, 'cat/deep/1.webp': 2}
    assert labels(tmp_path, 'val') == {'ant/2.png': 0, 'cat/3.png': 2}
    assert labels(tmp_path, 'val', classes=['cat', 'ant', 'bee']) == {'ant/2.png': 1, 'cat/3.png': 0}
    assert [record.levelname for record in log] == ['INFO', *['WARNING'] * 4]
    assert '1 of 3 classes' in log[2].getMessage()
    assert log[2].getMessage().endswith(': bee')


def test_hidden_and_empty_folders_are_no_classes(tmp_path, log):
    others = ('train/.ipynb_checkpoints/1.jpg', 'train/aaa/', 'train/aab/', 'train/loose.png')
    write(tmp_path, *TRAIN, *others, 'val/bee/1.tif')
    (tmp_path / 'train' / 'aab' / 'notes.txt').touch()
    assert labels(tmp_path)['bee/1.JPG'] == 1
    for part in ('3 images, 4 skipped', 'train/loose.png', 'train/aaa', 'train/aab', '.txt 1'):
        assert part in log[0].getMessage()
    assert labels(tmp_path, 'val') == {'bee/1.tif': 1}


def test_a_class_of_damaged_images_stays_a_class(tmp_path, log):
    write(tmp_path, 'train/ant/', *TRAIN[1:], 'val/bee/1.png')
    (tmp_path / 'train' / 'ant' / 'empty.jpg').touch()
    assert labels(tmp_path) == {'bee/1.JPG': 1, 'cat/deep/1.webp': 2}
    assert log[-1].getMessage().endswith(': ant')
    assert labels(tmp_path, 'val') == {'bee/1.png': 1}


def test_one_folder_of_classes_is_split_by_rule(tmp_path):
    """Every fifth image of each class is held out, so that both parts have all classes and share no image."""
    files = {f'{name}/{i:02}.ppm': label for label, name in enumerate('ab') for i in range(11)}
    write(tmp_path, *files)
    train, val = ({os.path.relpath(p, '..'): y for p, y in labels(tmp_path, part).items()} for part in ('train', 'val'))
    assert val == {name: label for name, label in files.items() if name[2:4] in ('04', '09')}
    assert {**train, **val} == files
    assert len(train) + len(val) == len(files)
    write(tmp_path, 'val/a/1.ppm')
    with pytest.raises(FileNotFoundError, match='/train'):
        labels(tmp_path, 'train')


@pytest.mark.parametrize(
    ('files', 'options', 'message'),
    [
        ((*TRAIN, 'val/dog/1.jpg', 'val/ant/1.jpg'), dict(split='val'), 'val: dog .*ant, bee, cat'),
        (TRAIN, dict(classes=('ant', 'bee')), 'train: cat .*ant, bee'),
        (TRAIN, dict(classes=('ant', 'bee', 'cat', 'dog')), 'dog .*train'),
        (TRAIN, dict(classes=('ant', 'bee', 'bee', 'cat')), 'bee twice'),
        (TRAIN, dict(classes=('ant')), "'ant'.*comma"),
        (TRAIN[:1], {}, 'train has 1 '),
        (['train/1.jpg', 'train/2.jpg'], {}, 'train has 0 '),
        ((*TRAIN, 'val/loose.jpg'), dict(split='val'), '1 in no class folder'),
        (TRAIN, dict(split='val'), '/val'),
        (['val/a/1.jpg'], dict(split='val'), '/train'),
        (TRAIN, dict(split='val', data_prefix='train'), 'data_prefix'),
    ],
)
def test_class_folders_that_are_refused(tmp_path, files, options, message):
    with pytest.raises((ValueError, FileNotFoundError, TypeError), match=message):
        LabelledImageFolder(write(tmp_path, *files), **options)


def test_takes_the_place_of_customdataset(tmp_path):
    write(tmp_path, *TRAIN, 'val/cat/1.png')
    pipeline = [dict(type='LoadImageStrict'), dict(type='PackInputs')]
    cfg = dict(data_root=str(tmp_path), data_prefix='train', pipeline=pipeline)
    old, new = (DATASETS.build(dict(cfg, type=name)) for name in ('CustomDataset', 'LabelledImageFolder'))
    assert (new.metainfo, new.class_to_idx) == (old.metainfo, old.class_to_idx)
    assert new.get_gt_labels().tolist() == [0, 1, 2]
    for a, b in zip(old, new, strict=False):
        assert a['inputs'].equal(b['inputs'])
        assert a['data_samples'].to_dict().keys() == b['data_samples'].to_dict().keys()
    assert DATASETS.build(dict(cfg, type='LabelledImageFolder', data_prefix='val'))[0]['data_samples'].gt_label == 2


PREFIX = dict(img_path='images', seg_map_path='masks')
PAIRS = ('images/1.JPG', 'masks/1.PNG', 'images/a/2.x.tiff', 'masks/a/2.x.bmp')


def segmentation(root, classes=('field', 'road'), **options) -> SegmentationFolder:
    return SegmentationFolder(str(root), **{'data_prefix': PREFIX, 'classes': classes, **options})


def pairs(data: SegmentationFolder) -> list[tuple[str, str]]:
    entries = [data.get_data_info(i) for i in range(len(data))]
    return [tuple(os.path.relpath(e[key], data.data_root) for key in PREFIX) for e in entries]


def test_each_image_goes_with_the_mask_of_its_name(tmp_path, log):
    others = ('images/3.png', 'masks/4.png', 'masks/5.jpg', 'masks/.6.png', 'images/a/1.jpg', 'masks/b/1.png')
    write(tmp_path, *PAIRS, *others, 'images/7.png', 'images/8.png')
    write(tmp_path, 'masks/7.png', 'masks/8.png')
    (tmp_path / 'images' / '7.png').write_bytes(b'')
    (tmp_path / 'images' / '8.png').write_bytes(b'no image')
    data = segmentation(tmp_path)
    assert pairs(data) == [PAIRS[:2], PAIRS[2:]]
    text = log[0].getMessage()
    for part in ('2 images, 7 skipped', 'without a mask: images/3.png, images/a/1.jpg\n', 'images/7.png: empty'):
        assert part in text
    for part in ('without an image: masks/4.png, masks/b/1.png\n', 'images/8.png: ', '(.jpg 1): masks/5.jpg'):
        assert part in text


def test_masks_in_a_folder_of_the_images(tmp_path):
    write(tmp_path, '1.jpg', '2.jpg', 'masks/1.png', 'masks/2.png')
    data = segmentation(tmp_path, data_prefix=dict(img_path='', seg_map_path='masks'))
    assert pairs(data) == [('1.jpg', 'masks/1.png'), ('2.jpg', 'masks/2.png')]
    assert not any(data.skipped.values())


@pytest.mark.parametrize(
    ('options', 'values'),
    [
        (dict(values=(0, 255), unlabelled=None), {0: 0, 255: 1}),
        (dict(values=[7, 1000], unlabelled=(0, 11)), {7: 0, 1000: 1, 0: 255, 11: 255}),
        (dict(unlabelled=11), {0: 0, 1: 1, 11: 255}),
        (dict(classes=[f'c{i}' for i in range(255)]), {i: i for i in range(256)}),
    ],
)
def test_values_of_masks(options, values):
    assert segmentation('gone', lazy_init=True, **options).mask_values == values


@pytest.mark.parametrize('count', [2, 150, 255])
def test_colours_are_distinct_and_always_the_same(count):
    first, second = (segmentation('gone', range(count), lazy_init=True).metainfo['palette'] for _ in range(2))
    assert first == second
    assert len(first) == len(set(map(tuple, first))) == count
    assert all(0 <= value <= 255 for colour in first for value in colour)
    mine = dict(classes=('field', 'road'), palette=[(1, 2, 3), (4, 5, 6)])
    assert segmentation('gone', lazy_init=True, **mine).metainfo == mine


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(classes=('ball')), "'ball'.*comma"),
        (dict(classes=('ball',)), '1 classes'),
        (dict(classes=('a', 'b', 'a')), 'a twice'),
        (dict(classes=range(256)), '256 classes.* 255'),
        (dict(values=(0, 255)), r'\[255\].*unlabelled'),
        (dict(values=(1, 1)), '2 classes'),
        (dict(palette=[(0, 0, 0)]), 'palette'),
        (dict(data_prefix=dict(img_path='images')), 'seg_map_path'),
        (dict(data_prefix=dict(img_path='images', seg_map_path='images/')), "in '.*images'"),
        (dict(data_prefix=dict(img_path='images', seg_map_path='none')), 'seg_map_path.*none'),
        (dict(ann_file='train.txt'), 'ann_file'),
    ],
)
def test_settings_of_masks_that_are_refused(tmp_path, options, message):
    write(tmp_path, *PAIRS)
    with pytest.raises((ValueError, FileNotFoundError, TypeError), match=message):
        segmentation(tmp_path, **options)


def test_no_pair_or_two_of_a_name_are_refused(tmp_path):
    write(tmp_path, 'images/1.jpg', 'masks/1_mask.png')
    with pytest.raises(FileNotFoundError, match='1 images without a mask and 1 masks without an image'):
        segmentation(tmp_path)
    write(tmp_path, 'masks/1.PNG', 'masks/1.gif')
    with pytest.raises(ValueError, match=r'masks/1\.PNG and .*masks/1\.gif'):
        segmentation(tmp_path)


def test_data_set_for_mmseg(tmp_path):
    write(tmp_path, *PAIRS)
    cfg = ConfigDict(data_root=str(tmp_path), data_prefix=PREFIX, classes=['a', 'b'], values=[0, 255], unlabelled=None)
    data = ROOT_DATASETS.build(dict(cfg, type='SegmentationFolder', indices=[1]))
    assert data[0]['seg_map_path'].endswith('masks/a/2.x.bmp')
    entry = pickle.loads(pickle.dumps(data))[0]
    assert entry['mask_values'] == {0: 0, 255: 1}
    assert (entry['seg_fields'], entry['reduce_zero_label'], entry['label_map']) == ([], False, None)
    gone = dict(type='SegmentationFolder', data_root='gone', data_prefix=PREFIX, classes=('a', 'b'))
    meta = describe_classes(ConfigDict(test_dataloader=dict(dataset=gone)), {}, 2)
    assert meta == {'classes': ['a', 'b'], 'palette': [tuple(colour) for colour in data.metainfo['palette']]}
