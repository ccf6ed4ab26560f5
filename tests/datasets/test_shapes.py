"""Contract: generated pictures that mmseg and mmdet read with their default classes, and whose two labellings agree."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmengine.registry import init_default_scope
from mmseg.datasets import ADE20KDataset
from PIL import Image
from pycocotools.coco import COCO
from scipy.ndimage import binary_dilation

from tools.make_shapes import make_shapes

IMAGES, VAL = 6, 3
SAME = {'sports ball': 120, 'suitcase': 42, 'kite': 115}  # COCO's names, ADE20K's labels


@pytest.fixture(scope='module')
def out(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp('data') / 'deep' / 'shapes', IMAGES, VAL)


def test_mmseg_reads_it_with_the_default_classes(out):
    init_default_scope('mmseg')
    for split, count in (('training', IMAGES), ('validation', VAL)):
        dataset = ADE20KDataset(
            data_root=str(out / 'ade20k'),
            data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}'),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
        )
        assert len(dataset) == count
        seen = set()
        for item in dataset:
            assert item['img'].shape[:2] == item['gt_seg_map'].shape
            seen |= {dataset.metainfo['classes'][i] for i in np.unique(item['gt_seg_map']) if i != 255}
        assert seen <= {'wall', 'sky', 'grass', 'ball', 'box', 'tent'}
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
    counts, names = [], set()
    for item in dataset:
        counts.append(len(item['gt_bboxes']))
        names |= {dataset.metainfo['classes'][i] for i in item['gt_bboxes_labels']}
        assert len(item['gt_masks'].masks) == counts[-1]
    assert names <= set(SAME)
    assert counts[3] == 0
    assert all(counts[:3])
    content = json.loads((out / 'coco' / 'annotations' / 'instances_val2017.json').read_text())
    assert [category['name'] for category in content['categories']] == list(CocoDataset.METAINFO['classes'])


def test_both_formats_agree(out):
    coco = COCO(str(out / 'coco' / 'annotations' / 'instances_train2017.json'))
    for image_id in coco.imgs:
        labels = np.asarray(Image.open(out / f'ade20k/annotations/training/{image_id - 1:06d}.png'))
        whole = np.zeros(labels.shape, bool)
        for annotation in coco.imgToAnns[image_id]:
            mask = coco.annToMask(annotation).astype(bool)
            label = SAME[coco.cats[annotation['category_id']]['name']]
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation['bbox']
            # pycocotools rounds polygons to pixels in its own way: only the rim may differ.
            found = [columns.min() - x, rows.min() - y, columns.max() + 1 - x - width, rows.max() + 1 - y - height]
            assert np.abs(found).max() <= 1
            assert np.isin(labels[mask], (label, 0)).all()
            assert (labels[mask] == label).mean() > 0.8
            assert abs(annotation['area'] - mask.sum()) <= 0.25 * annotation['area'] + 4
            whole |= mask
        assert not np.isin(labels[~binary_dilation(whole, iterations=2)], list(SAME.values())).any()


def test_script_replaces_its_own_folder_and_no_other(tmp_path, run_tool):
    def run(out):
        run_tool('make_shapes.py', '--out', out)
        return {path: path.read_bytes() for path in out.rglob('*') if path.is_file()}

    assert run(tmp_path / 'shapes') == run(tmp_path / 'shapes')
    (tmp_path / 'coco').mkdir()
    with pytest.raises(SystemExit, match=f'make_shapes.py: error: {tmp_path}'):
        run(tmp_path)
