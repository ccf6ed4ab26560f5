"""An annotation file in COCO's format is read as it is meant, or refused: every case of a fault is a line here.

* What is incomplete is computed; what cannot be is left out, by its id, and counted; a sound file stays as it is.
* Labels are the classes of the config, by name, in training and in evaluation.
* Data set and evaluator see the same images, also of a subset.
"""

import json
import math
import os
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import DATASETS, METRICS
from mmdet.structures.mask import PolygonMasks
from mmengine.config import Config
from PIL import Image
from pycocotools import mask as coco_mask

from randsac_mm.datasets.coco import clean_coco, prepare_coco
from randsac_mm.datasets.scan import ImageFacts

HEIGHT, WIDTH = 61, 97
SQUARE = [[10, 20, 30, 20, 30, 50, 10, 50]]  # x 10 to 30, y 20 to 50
BOX = [10, 20, 20, 30]
PIXELS = np.zeros((HEIGHT, WIDTH), np.uint8, order='F')
PIXELS[20:50, 10:30] = 1
RLE = coco_mask.encode(PIXELS)
COMPRESSED = dict(size=[HEIGHT, WIDTH], counts=RLE['counts'].decode())
runs = np.flatnonzero(np.diff(np.r_[0, PIXELS.ravel(order='F'), 0]))
COUNTS = np.diff(np.r_[0, runs, PIXELS.size]).tolist()
UNCOMPRESSED = dict(size=[HEIGHT, WIDTH], counts=COUNTS)
REMOVED = '(removed)'


def annotation(**changes) -> dict:
    sound = dict(id=5, image_id=1, category_id=3, bbox=BOX, area=600, iscrowd=0, segmentation=SQUARE)
    return {key: value for key, value in {**sound, **changes}.items() if value is not REMOVED}


def file(*annotations, image=None, **changes) -> dict:
    """A file of one image and two categories; the sound annotation 9 keeps company to the others."""
    images = [dict(dict(id=1, file_name='a.png', height=HEIGHT, width=WIDTH), **(image or {}))]
    images = [{key: value for key, value in images[0].items() if value is not REMOVED}]
    categories = [dict(id=3, name='ball'), dict(id=1, name='box')]
    records = [annotation(id=9, category_id=1), *annotations]
    sound = dict(info={}, images=images, annotations=records, categories=categories)
    return {key: value for key, value in {**sound, **changes}.items() if value is not REMOVED}


def facts(height=HEIGHT, width=WIDTH, orientation=1, fault=None):
    return lambda names: [ImageFacts(fault, 'RGB', height, width, orientation)] * len(names)


def clean(data, classes=('ball', 'box'), scan=None, **options):
    before = deepcopy(data)
    result = clean_coco(data, classes, scan or facts(), **options)
    assert repr(data) == repr(before), 'what is given does not change'
    assert clean_coco(result[0], classes, scan or facts(), **options)[0] is result[0], 'a cleaned file is sound'
    return result


@pytest.mark.parametrize('segmentation', [SQUARE, COMPRESSED, UNCOMPRESSED], ids=['polygon', 'rle', 'runs'])
def test_a_sound_file_stays_as_it_is(segmentation):
    data = file(annotation(segmentation=segmentation))
    found, facts, warnings = clean(data)
    assert found is data
    assert warnings == []
    assert facts['classes']['ball'] == dict(images=1, instances=1, pixels=600)
    assert (facts['longest_side'], facts['shortest_side'], facts['images']) == (WIDTH, HEIGHT, 1)


REPAIRED = {
    'no area, polygon': (dict(area=REMOVED), dict(area=600)),
    'no area, RLE': (dict(area=REMOVED, segmentation=COMPRESSED), dict(area=600)),
    'no area, runs': (dict(area=REMOVED, segmentation=UNCOMPRESSED), dict(area=600)),
    'area 0': (dict(area=0), dict(area=600)),
    'area NaN': (dict(area=math.nan), dict(area=600)),
    'no iscrowd': (dict(iscrowd=REMOVED), dict(iscrowd=0)),
    'iscrowd as a truth value': (dict(iscrowd=True), dict(iscrowd=1)),
    'flat polygon': (dict(segmentation=SQUARE[0]), dict(segmentation=SQUARE)),
    'two-point polygon beside a sound one': (dict(segmentation=[[1, 2, 3, 4], *SQUARE]), dict(segmentation=SQUARE)),
    'polygon of strings': (dict(segmentation=[list(map(str, SQUARE[0]))]), dict(segmentation=SQUARE)),
    'box of strings': (dict(bbox=list(map(str, BOX))), dict(bbox=BOX)),
    'no box, polygon': (dict(bbox=REMOVED), dict(bbox=BOX)),
    'box NaN, RLE': (dict(bbox=[1, 2, math.nan, 4], segmentation=COMPRESSED), dict(bbox=BOX)),
    'box beyond the left and top': (dict(bbox=[-5, -10, 35, 60]), dict(bbox=[0, 0, 30, 50])),
    'box beyond the right and bottom': (dict(bbox=[10, 20, 90, 50]), dict(bbox=[10, 20, WIDTH - 10, HEIGHT - 20])),
    'ids as strings': (dict(image_id='1', category_id='3'), dict(image_id=1, category_id=3)),
    'ids as floats': (dict(image_id=1.0, category_id=3.0), dict(image_id=1, category_id=3)),
}


@pytest.mark.parametrize(('given', 'expected'), REPAIRED.values(), ids=REPAIRED)
def test_what_can_be_computed_is(given, expected):
    found, facts, warnings = clean(file(annotation(**given), annotation(id=6), annotation(id=7)))
    record = found['annotations'][1]
    assert record == {**annotation(**given), **expected}
    assert {type(record[key]) for key in ('image_id', 'category_id', 'iscrowd')} == {int}
    assert warnings == []
    assert facts['repaired'] == dict.fromkeys(expected, 1)


SKIPPED = {
    'no mask': (dict(segmentation=REMOVED), 'mask'),
    'empty mask': (dict(segmentation=[]), 'mask'),
    'an empty polygon': (dict(segmentation=[[]]), 'three points'),
    'two-point polygon': (dict(segmentation=[[10, 20, 30, 50]]), 'three points'),
    'odd polygon': (dict(segmentation=[[10, 20, 30, 50, 7, 8, 9]]), 'three points'),
    'polygon NaN': (dict(segmentation=[[10, 20, 30, 50, 7, math.nan]]), 'three points'),
    'RLE of another size': (dict(segmentation=dict(COMPRESSED, size=[WIDTH, HEIGHT])), 'size'),
    'runs of another length': (dict(segmentation=dict(UNCOMPRESSED, counts=[*COUNTS, 4])), 'counts'),
    'runs of nothing': (dict(segmentation=dict(UNCOMPRESSED, counts=[HEIGHT * WIDTH])), 'empty'),
    'area 0 in truth': (dict(area=0, segmentation=[[10, 20, 10, 20, 10, 20]]), 'area 0'),
    'box of zero width': (dict(bbox=[10, 20, 0, 30]), 'zero size'),
    'box of negative height': (dict(bbox=[10, 20, 20, -3]), 'zero size'),
    'box outside': (dict(bbox=[WIDTH, 20, 20, 30]), 'outside'),
    'box below zero': (dict(bbox=[-30, 20, 30, 30]), 'outside'),
    'image that is not there': (dict(image_id=8), 'image'),
    'category that is not there': (dict(category_id=8), 'category'),
    'no image': (dict(image_id=REMOVED), 'image'),
}


@pytest.mark.parametrize(('given', 'reason'), SKIPPED.values(), ids=SKIPPED)
def test_what_cannot_is_left_out_and_counted(given, reason):
    found, facts, warnings = clean(file(*[annotation(id=n, **given) for n in range(20, 32)]))
    assert [record['id'] for record in found['annotations']] == [9]
    line, unused = warnings
    assert reason in line
    assert 'classes without objects: 1 (ball)' in unused
    assert '12 (20, 21, ' in line
    assert '31' not in line, 'the first ten'
    assert facts['classes']['ball']['instances'] == 0


@pytest.mark.parametrize('segmentation', [REMOVED, [], [[1, 2, 3, 4]], dict(COMPRESSED, size=[3, 4])], ids=str)
def test_boxes_suffice_for_a_model_without_masks(segmentation):
    data = file(annotation(segmentation=segmentation, area=REMOVED))
    found, _, warnings = clean(data, masks=False)
    assert found['annotations'][1]['area'] == BOX[2] * BOX[3]
    assert warnings == []


@pytest.mark.parametrize('number', [REMOVED, 0, 9, -3, 'x', 5.5], ids=str)
def test_ids_of_annotations_are_given_anew(number):
    """0, too: COCO's evaluation takes it for no match, and a perfect prediction of it as wrong."""
    found, _, _ = clean(file(annotation(id=number), annotation(id=7)))
    assert [record['id'] for record in found['annotations']] == [1, 2, 3]


@pytest.mark.parametrize('size', [(REMOVED, REMOVED), (0, WIDTH), (float(HEIGHT), str(WIDTH))], ids=str)
def test_sizes_come_from_the_upright_images_and_info_is_added(size):
    data = file(image=dict(zip(('height', 'width'), size, strict=True)), info=REMOVED)
    found, _, _ = clean(data, scan=facts(WIDTH, HEIGHT, orientation=6))
    sizes = [found['images'][0][key] for key in ('height', 'width')]
    assert (sizes, list(map(type, sizes)), found['info']) == ([HEIGHT, WIDTH], [int, int], {})


def test_images_that_cannot_be_read_are_left_out():
    images = [dict(id=n, file_name=f'{n}.png', height=HEIGHT, width=WIDTH) for n in (1, 2)]

    def scan(names):
        return [ImageFacts('truncated' if name == '2.png' else None, 'RGB', HEIGHT, WIDTH) for name in names]

    found, _, (line, _) = clean(file(annotation(image_id=2), images=images), scan=scan)
    assert [image['id'] for image in found['images']] == [1]
    assert [record['id'] for record in found['annotations']] == [9]
    assert '2.png: truncated' in line


def test_sizes_of_a_turned_photograph_tell_whose_the_annotations_are():
    turned = facts(WIDTH, HEIGHT, orientation=6)  # stored lying on its side
    data = file()
    assert clean(data, scan=turned)[0] is data, 'upright'
    with pytest.raises(ValueError, match=rf'a\.png.*{HEIGHT} x {WIDTH}.*EXIF'):
        clean(file(image=dict(height=WIDTH, width=HEIGHT)), scan=turned)
    _, _, (line, _) = clean(data, scan=facts(orientation=3))
    assert 'EXIF' in line, 'upside down: the size cannot tell'


def corners(*boxes, **changes):
    return [annotation(id=n, bbox=list(box), **changes) for n, box in enumerate(boxes, 20)]


IN_CORNERS = [(60, 30, 90, 55), (50, 5, 80, 40), (12, 31, 60, 60)]
ERRORS = {
    'a list': ([dict(image_id=1)], 'list'),
    'no images': (file(images=REMOVED), 'images'),
    'empty': (file(images=[]), 'image'),
    'no annotations': (file(annotations=REMOVED), 'annotations'),
    'annotations of nothing': (file(annotations=[]), 'object'),
    'no categories': (file(categories=REMOVED), 'categories'),
    'LVIS, no file_name': (file(image=dict(file_name=REMOVED)), 'file_name'),
    'image without id': (file(image=dict(id=REMOVED)), 'id'),
    'images of one id': (file(images=[dict(id=1, file_name=f'{n}.png') for n in 'ab']), 'id 1.*b.png'),
    'another size': (file(image=dict(height=2 * HEIGHT)), rf'a\.png.*{WIDTH} x {2 * HEIGHT}.*{WIDTH} x {HEIGHT}'),
    'categories of one name': (file(categories=[dict(id=n, name='ball') for n in (1, 3)]), 'name.*ball, ball'),
    'categories of one id': (file(categories=[dict(id=3, name=n) for n in ('ball', 'box')]), 'id.*3, 3'),
    'category without name': (file(categories=[dict(id=3), dict(id=1, name='box')]), 'name'),
    'a class misspelt': (file(categories=[dict(id=n, name=n) for n in ('Balls', 'box')]), "'ball'.*Balls, box.*mean"),
    'corners, by masks': (file(*corners(*[(10, 20, 30, 50)] * 3)), 'x1, y1.*20, 21, 22'),
    'corners, by the image': (file(*corners(*IN_CORNERS, segmentation=[])), 'x1, y1.*20, 21, 22'),
    'masks elsewhere': (file(*corners(*[(70, 5, 20, 10)] * 3)), 'masks are not.*20, 21, 22'),
    'nothing but skipped': (file(annotations=[annotation(bbox=[1, 2, 0, 0])]), 'zero size: 1'),
    'crowds only': (file(annotations=[annotation(iscrowd=1)]), 'object'),
}


@pytest.mark.parametrize(('data', 'named'), ERRORS.values(), ids=ERRORS)
def test_what_cannot_be_right_is_refused(data, named):
    with pytest.raises(ValueError, match=named):
        clean_coco(data, ('ball', 'box'), facts(), masks=False)


def test_no_image_that_can_be_used_is_an_error():
    with pytest.raises(ValueError, match=r'a\.png: gone'):
        clean_coco(file(), ('box',), facts(fault='gone'))
    with pytest.raises(ValueError, match='min_size'):
        clean_coco(file(), ('box',), facts(), filter_cfg=dict(min_size=HEIGHT + 1))


def test_boxes_beyond_the_image_are_no_corners_if_others_are_sizes():
    data = file(*corners((60, 30, 90, 55), (60, 30, 20, 20), (50, 40, 10, 9), segmentation=[]))
    found, _, _ = clean(data, masks=False)
    assert found['annotations'][1]['bbox'] == [60, 30, WIDTH - 60, HEIGHT - 30]


@given(st.permutations(['ball', 'box', 'tent']), st.permutations(['ball', 'box', 'tent', 'tree']))
def test_labels_are_in_the_order_of_the_classes(classes, order):
    data = file(categories=[dict(id=7 * n, name=name) for n, name in enumerate(order)])
    data['annotations'] = [annotation(id=n + 1, category_id=7 * n) for n in range(4)]
    found, _, (line,) = clean(data, classes)
    assert [category['name'] for category in found['categories'] if category['name'] in classes] == classes
    assert {c['id']: c['name'] for c in found['categories']} == {c['id']: c['name'] for c in data['categories']}
    assert (found is data) == ([name for name in order if name != 'tree'] == classes)
    assert 'no class: 1 (tree: 1)' in line


def test_images_with_crowds_only_are_no_training_images():
    images = [dict(id=n, file_name=f'{n}.png', height=HEIGHT, width=WIDTH) for n in (1, 2, 3)]
    data = file(annotation(image_id=2, iscrowd=1), images=images)
    found, _, (line, _) = clean(data, filter_cfg=dict(filter_empty_gt=True))
    assert [image['id'] for image in found['images']] == [1, 3], 'mmdet itself leaves out what has no annotation'
    assert '1 (2)' in line
    assert clean(data)[0] is data, 'in evaluation they count'


SUBSETS = [(2, {}, [11, 12]), (-2, {}, [13, 14]), ([3, 0], {}, [14, 11]), ([-1], {}, [14])]


@pytest.mark.parametrize(
    ('indices', 'filter_cfg', 'expected'), [*SUBSETS, ([1, 0], dict(filter_empty_gt=True), [13, 11])]
)
def test_a_subset_is_mmengines(indices, filter_cfg, expected):
    images = [dict(id=n, file_name=f'{n}.png', height=HEIGHT, width=WIDTH) for n in (11, 12, 13, 14)]
    annotations = [annotation(id=n, image_id=n) for n in (11, 13, 14)]
    data = file(images=images, annotations=annotations)
    found, _, _ = clean_coco(data, ('ball',), facts(), indices=indices, filter_cfg=filter_cfg)
    assert [image['id'] for image in found['images']] == expected
    assert {record['image_id'] for record in found['annotations']} == set(expected) - {12}
    for wrong in ([4], [0, 0]):
        with pytest.raises(ValueError, match=rf'indices.*{wrong[0]}'):
            clean_coco(data, ('ball',), facts(), indices=wrong)


# The config: data sets and evaluators.


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A folder of four images, the same annotations for training and validation, and their config."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for n in range(1, 5):
        image = rng.integers(256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / f'{n}.png')
        images.append(dict(id=n, file_name=f'{n}.png', height=HEIGHT, width=WIDTH))
        for k, category in enumerate((3, 1, 3)[: n % 3 + 1]):
            x, y, w, h = 5 + 20 * k, 3 + n, 11 + k, 17
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            record = dict(bbox=[x, y, w, h], area=w * h, segmentation=[polygon], image_id=n, category_id=category)
            annotations.append(annotation(id=len(annotations) + 1, **record))
    write(tmp_path / 'sound.json', file(images=images, annotations=annotations))
    pipeline = [dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
    common = dict(type='CocoDataset', data_root=str(tmp_path), data_prefix=dict(img=''), pipeline=pipeline)
    dataset = dict(common, ann_file='sound.json', metainfo=dict(classes=('box', 'ball')))
    loader = dict(dataset=dict(type='RepeatDataset', times=2, dataset=dict(dataset, filter_cfg=dict(min_size=1))))
    evaluator = dict(type='CocoMetric', ann_file=str(tmp_path / 'sound.json'), metric=['bbox', 'segm'])
    test = dict(dataset=dict(dataset, type='mmdet.CocoDataset', test_mode=True))
    cfg = dict(train_dataloader=loader, val_dataloader=test, val_evaluator=evaluator)
    return Config(dict(cfg, test_dataloader=test, test_evaluator=[evaluator]))


def write(path, content) -> None:
    path.write_text(json.dumps(content))


def errors(cfg, **options) -> list[str]:
    return [line for report in prepare_coco(cfg, **options) for line in report.errors]


def test_config_reads_the_cleaned_copy(config, tmp_path):
    reports = prepare_coco(config)
    assert [report.name for report in reports] == ['train_dataloader.dataset.dataset', 'val_dataloader.dataset']
    assert not any(report.errors for report in reports)
    path = config.val_dataloader.dataset.ann_file
    assert Path(path).is_relative_to(tmp_path / 'cache')
    assert path == config.val_evaluator.ann_file == config.test_evaluator[0].ann_file
    assert [category['name'] for category in json.loads(Path(path).read_bytes())['categories']] == ['box', 'ball']
    before = config.to_dict()
    prepare_coco(config)
    assert config.to_dict() == before, 'a cleaned file is sound'


def test_a_sound_file_is_read_itself(config, tmp_path):
    for loader in (
        config.train_dataloader.dataset.dataset,
        config.val_dataloader.dataset,
        config.test_dataloader.dataset,
    ):
        loader.metainfo = dict(classes=('ball', 'box'))
    prepare_coco(config)
    assert config.val_dataloader.dataset.ann_file == config.val_evaluator.ann_file == str(tmp_path / 'sound.json')


def test_what_is_known_is_remembered_until_a_file_changes(config, tmp_path, monkeypatch):
    start = config.to_dict()
    first = prepare_coco(config)
    copy = config.val_dataloader.dataset.ann_file
    again = Config(start)
    with monkeypatch.context() as patch:
        patch.setattr('randsac_mm.datasets.coco.clean_coco', None)
        assert prepare_coco(again) == first
    assert again.val_dataloader.dataset.ann_file == copy
    Image.new('RGB', (WIDTH, HEIGHT - 1)).save(tmp_path / '3.png')
    assert all('3.png' in line for line in errors(Config(start)))
    (tmp_path / '3.png').unlink()
    assert any('3.png' in line for report in prepare_coco(Config(start)) for line in report.warnings)
    Path(copy).unlink()
    assert not errors(again := Config(start))
    data = json.loads((tmp_path / 'sound.json').read_bytes())
    write(tmp_path / 'sound.json', dict(data, annotations=data['annotations'][:1]))
    prepare_coco(again := Config(start))
    assert len(json.loads(Path(again.val_dataloader.dataset.ann_file).read_bytes())['annotations']) == 1


def test_mistakes_of_a_config_are_named(config, tmp_path):
    def changed(key, value, parts=('val',)):
        cfg = Config(config.to_dict())
        cfg.merge_from_dict({key: value})
        return errors(cfg, parts=parts)

    dataset = 'val_dataloader.dataset.'
    assert "('ball',)" in changed(dataset + 'metainfo.classes', ('ball'))[0]
    assert 'ball' in changed(dataset + 'metainfo.classes', ('ball', 'ball'))[0]
    assert 'person' in changed(dataset + 'metainfo', dict(_delete_=True))[0], "mmdet's own classes"
    assert 'gone.json' in changed(dataset + 'ann_file', 'gone.json')[0]
    (tmp_path / 'text.json').write_text('{')
    assert 'text.json: no JSON' in changed(dataset + 'ann_file', 'text.json')[0]
    write(tmp_path / 'other.json', {})
    (line,) = changed('val_evaluator.ann_file', str(tmp_path / 'other.json'))
    assert 'other.json' in line
    assert 'sound.json' in line
    assert changed('val_dataloader.dataset.ann_file', 'gone.json', parts=('train',)) == []


def test_classes_may_be_the_lines_of_a_file(config, tmp_path):
    (tmp_path / 'names.txt').write_text('ball\nbox\n')
    config.val_dataloader.dataset.metainfo.classes = str(tmp_path / 'names.txt')
    assert not errors(config)


# Against mmdet.


def reading(config, part) -> list:
    """Return what mmdet delivers: file name, and label names and boxes of its instances."""
    dataset = config[f'{part}_dataloader']['dataset']
    dataset = DATASETS.build(dict(dataset.get('dataset', dataset), pipeline=[]))
    classes = dataset.metainfo['classes']
    items = [dataset.get_data_info(index) for index in range(len(dataset))]
    found = [[(classes[i['bbox_label']], i['bbox']) for i in item['instances']] for item in items]
    return [(os.path.basename(item['img_path']), instances) for item, instances in zip(items, found, strict=True)]


def slow_reading(path, indices=range(4)) -> list:
    data = json.loads(Path(path).read_bytes())
    names = {category['id']: category['name'] for category in data['categories']}
    found = []
    for image in [data['images'][index] for index in indices]:
        records = [record for record in data['annotations'] if record['image_id'] == image['id']]
        boxes = [(names[r['category_id']], r['bbox']) for r in records]
        found.append((image['file_name'], [(name, [x, y, x + w, y + h]) for name, (x, y, w, h) in boxes]))
    return found


@pytest.mark.parametrize('part', ['train', 'val'])
def test_mmdet_reads_what_is_meant(config, part, tmp_path):
    assert reading(config, part) != slow_reading(tmp_path / 'sound.json'), 'mmdet alone swaps the classes'
    prepare_coco(config)
    assert reading(config, part) == slow_reading(tmp_path / 'sound.json')


def scores(config, truth) -> dict:
    """Return mmdet's metrics of perfect predictions: what :func:`slow_reading` returns."""
    metric = METRICS.build(config.val_evaluator)
    classes = config.val_dataloader.dataset.metainfo.classes
    metric.dataset_meta = dict(classes=classes)
    for name, instances in truth:
        boxes = torch.tensor([box for _, box in instances], dtype=torch.float32)
        polygons = [[np.array([a, b, c, b, c, d, a, d], float)] for a, b, c, d in boxes.tolist()]
        masks = torch.tensor(PolygonMasks(polygons, HEIGHT, WIDTH).to_ndarray())
        labels = torch.tensor([classes.index(label) for label, _ in instances])
        found = dict(bboxes=boxes, labels=labels, scores=torch.ones(len(boxes)), masks=masks.bool())
        sample = dict(img_id=int(name.partition('.')[0]), ori_shape=(HEIGHT, WIDTH), pred_instances=found)
        metric.process({}, [sample])
    return metric.evaluate(len(truth))


def test_perfect_predictions_score_one(config, tmp_path):
    truth = slow_reading(tmp_path / 'sound.json')
    assert scores(config, truth)['coco/bbox_mAP'] < 0.5, 'mmdet alone swaps the classes'
    prepare_coco(config)
    found = scores(config, truth)
    assert found['coco/bbox_mAP'] == found['coco/segm_mAP'] == 1


def test_evaluator_knows_of_the_subset(config, tmp_path):
    config.val_dataloader.dataset.indices = [2, 0]
    prepare_coco(config, ['val'])
    truth = slow_reading(tmp_path / 'sound.json', [2, 0])
    assert reading(config, 'val') == truth
    assert 'indices' not in config.val_dataloader.dataset
    assert scores(config, truth)['coco/bbox_mAP'] == 1


def test_official_files_stay_as_they_are(shared_data, root, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    cfg = Config.fromfile(root / 'configs' / 'detection' / 'mask-rcnn_vit-b_fpn_coco.py')
    for part in ('train', 'val', 'test'):
        dataset = cfg[f'{part}_dataloader'].dataset
        folder = dataset.data_prefix.img.strip('/')
        dataset.update(data_root=str(shared_data / 'tinycoco'), data_prefix=dict(img=f'images/{folder}'))
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = os.path.join(dataset.data_root, dataset.ann_file)
    train, val = prepare_coco(cfg)
    assert train.errors == val.errors == []
    assert all('classes without objects' in line for line in train.warnings + val.warnings)
    assert (
        cfg.val_evaluator.ann_file
        == cfg.val_dataloader.dataset.ann_file
        == os.path.join(dataset.data_root, dataset.ann_file)
    )
    assert sum(found['instances'] for found in train.facts['classes'].values()) == 284


def test_subset_of_the_smoke_config_is_as_it_was(shared_data, root, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    cfg = Config.fromfile(root / 'configs' / 'smoke' / 'mask-rcnn_vit_tinycoco.py')
    for part in ('train', 'val', 'test'):
        cfg[f'{part}_dataloader'].dataset.data_root = str(shared_data / 'tinycoco')
    before = [reading(cfg, part) for part in ('train', 'val')]
    assert not errors(cfg)
    assert [reading(cfg, part) for part in ('train', 'val')] == before
    assert len(before[0]) == 8
