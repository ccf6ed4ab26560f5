"""Contract: generated pictures that mmseg and mmdet read with their default classes, and whose two labellings agree."""

import hashlib
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmengine.registry import init_default_scope
from mmseg.datasets import ADE20KDataset
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from randsac_mm.datasets import shapes
from randsac_mm.datasets.shapes import make_shapes

# pycocotools' arrays know numpy 1's protocol only.
pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')

IMAGES, VAL = 6, 3
BALL, BOX, TENT = 120, 42, 115  # ADE20K's labels
SAME = {'sports ball': BALL, 'suitcase': BOX, 'kite': TENT}


@pytest.fixture(scope='module')
def out(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp('data') / 'deep' / 'shapes', IMAGES, VAL)


def labels_of(out: Path, index: int) -> np.ndarray:
    return np.asarray(Image.open(out / 'ade20k' / 'annotations' / 'training' / f'{index:06d}.png'))


def digest(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob('*') if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_mmseg_reads_it_with_the_default_classes(out):
    init_default_scope('mmseg')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    for split, count in (('training', IMAGES), ('validation', VAL)):
        dataset = ADE20KDataset(
            data_root=str(out / 'ade20k'),
            data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}'),
            pipeline=pipeline,
        )
        assert len(dataset) == count
        seen = set()
        for item in dataset:
            assert item['img'].shape[:2] == item['gt_seg_map'].shape
            seen |= {dataset.metainfo['classes'][i] for i in np.unique(item['gt_seg_map']) if i != 255}
        assert seen <= {'wall', 'sky', 'grass', 'ball', 'box', 'tent'}
        assert seen & {'wall', 'sky', 'grass'}
        assert seen & {'ball', 'box', 'tent'}


def test_mmdet_reads_it_with_the_default_classes(out):
    init_default_scope('mmdet')
    dataset = CocoDataset(
        data_root=str(out / 'coco'),
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)],
    )
    assert len(dataset) == IMAGES
    counts, names, crowds = [], set(), 0
    for item in dataset:
        counts.append(len(item['gt_bboxes']))
        names |= {dataset.metainfo['classes'][i] for i in item['gt_bboxes_labels']}
        crowds += item['gt_ignore_flags'].sum()
        assert len(item['gt_masks'].masks) == counts[-1]
    assert names <= set(SAME)
    assert crowds == 2  # pictures 1 and 5
    assert counts[3] == 0
    assert all(counts[:3])


def test_both_formats_say_the_same(out):
    coco = COCO(str(out / 'coco' / 'annotations' / 'instances_train2017.json'))
    for image_id, image in coco.imgs.items():
        labels = labels_of(out, image_id - 1)
        assert labels.shape == (image['height'], image['width'])
        annotations = coco.imgToAnns[image_id]
        whole = np.zeros(labels.shape, bool)
        for annotation in annotations:
            mask = coco.annToMask(annotation).astype(bool)
            label = SAME[coco.cats[annotation['category_id']]['name']]
            if annotation['iscrowd']:
                assert (labels[mask] == label).all()
                assert annotation['area'] == mask.sum()
                counts = rle.frPyObjects(annotation['segmentation'], *labels.shape)
                assert rle.toBbox(counts).tolist() == annotation['bbox']
            else:  # pycocotools rounds polygons to pixels in its own way: only the rim may differ
                assert np.isin(labels[mask], (label, 0)).all()
                assert (labels[mask] == label).mean() > 0.8
                assert abs(annotation['area'] - mask.sum()) <= 0.25 * annotation['area'] + 4
                x, y, w, h = annotation['bbox']
                rows, columns = np.nonzero(labels == label)
                inside = (columns >= int(x)) & (columns <= x + w) & (rows >= int(y)) & (rows <= y + h)
                assert inside.sum() >= annotation['area']
                assert x >= 0
                assert y >= 0
                assert x + w <= image['width'] + 0.01
                assert y + h <= image['height'] + 0.01
            whole |= mask
        assert not np.isin(labels[~shapes._grow(shapes._grow(whole))], (BALL, BOX, TENT)).any()


def test_sizes_are_mixed_and_not_square(out):
    sizes = {labels_of(out, index).shape for index in range(IMAGES)}
    assert len(sizes) > 3
    assert any(height != width for height, width in sizes)
    assert all(57 <= height <= 96 and 76 <= width <= 128 for height, width in sizes)


def test_all_categories_of_coco_are_listed(out):
    content = json.loads((out / 'coco' / 'annotations' / 'instances_val2017.json').read_text())
    assert [category['name'] for category in content['categories']] == list(CocoDataset.METAINFO['classes'])
    assert content['categories'][0] == {'id': 1, 'name': 'person'}
    assert content['categories'][-1]['id'] == 90


def test_pictures_depend_on_the_seed_only(out, tmp_path):
    again = make_shapes(tmp_path / 'again', IMAGES, VAL)
    assert digest(again) == digest(out)
    more = make_shapes(tmp_path / 'more', IMAGES + 1, VAL)
    name = 'coco/train2017/000002.jpg'
    assert digest(more)[name] == digest(out)[name]
    other = make_shapes(tmp_path / 'other', 3, 1, seed=1)
    assert digest(other)[name] != digest(out)[name]


def test_its_own_folder_is_replaced_and_any_other_refused(tmp_path):
    folder = make_shapes(tmp_path / 'shapes', 2, 1)
    make_shapes(folder, 1, 1, size=(40, 50))
    assert len(list((folder / 'coco' / 'train2017').iterdir())) == 1
    (folder / 'ade20k' / 'mine.txt').write_text('precious')
    with pytest.raises(FileExistsError, match=r'shapes holds ade20k/mine.txt, which make_shapes did not write'):
        make_shapes(folder)
    assert (folder / 'ade20k' / 'mine.txt').read_text() == 'precious'

    for content in ('{}', '[]', 'no json', '{"files": 3}'):
        foreign = tmp_path / 'foreign'
        foreign.mkdir(exist_ok=True)
        (foreign / 'a.jpg').touch()
        (foreign / 'shapes.json').write_text(content)
        with pytest.raises(FileExistsError, match=r'foreign holds a.jpg'):
            make_shapes(foreign)
    with pytest.raises(FileExistsError, match=r'a.jpg is a file; name a folder'):
        make_shapes(foreign / 'a.jpg')


def test_empty_folder_is_used(tmp_path):
    assert (make_shapes(tmp_path, 1, 1) / 'ade20k').is_dir()


def test_failure_leaves_what_was_there(tmp_path, monkeypatch):
    folder = make_shapes(tmp_path / 'shapes', 1, 1)
    before = digest(folder)

    def full(*args):
        raise OSError('disk full')

    monkeypatch.setattr(shapes, '_write_json', full)
    with pytest.raises(OSError, match='disk full'):
        make_shapes(folder, 2, 1)
    assert digest(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ['shapes']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(images=0), 'images=0 must be at least 1'),
        (dict(val=-1), 'val=-1 must be at least 1'),
        (dict(size=(31, 64)), r'size=\(31, 64\) must be a height and a width of at least 32'),
        (dict(size=(64,)), r'size=\(64,\) must be a height and a width'),
        (dict(seed=-2), 'seed=-2 must not be negative'),
    ],
)
def test_bad_numbers_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_shapes(tmp_path / 'shapes', **arguments)
    assert not (tmp_path / 'shapes').exists()


def test_script(tmp_path, monkeypatch, capsys, root):
    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['make_shapes.py', '--out', str(tmp_path / 'shapes'), *arguments])
        runpy.run_path(str(root / 'tools' / 'make_shapes.py'), run_name='__main__')

    run('--images', '2', '--val', '1', '--size', '40', '60', '--seed', '7')
    assert '2 + 1 pictures' in capsys.readouterr().out
    assert digest(tmp_path / 'shapes') == digest(make_shapes(tmp_path / 'direct', 2, 1, (40, 60), 7))
    with pytest.raises(SystemExit, match='make_shapes: images=0 must be'):
        run('--images', '0')
