"""Predictions equal those of mmseg's and mmdet's own functions; what is written is what was predicted."""

import json

import numpy as np
import pytest
import torch
from datasets.image_files import hostile
from inference.conftest import photo
from inference.tiny import SMOKE, save_weights, upernet
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image
from pycocotools import mask as run_lengths

from randsac_mm.datasets import UnreadableImageError, read_image
from randsac_mm.inference import Faulty, Predictor, Segmented


def test_maps_equal_mmseg(predictors, trained, tmp_path):
    from mmseg.apis import inference_model, init_model

    file = photo(tmp_path / 'street.png')
    model = init_model(*map(str, trained['segmentation']), device='cpu')
    expected = inference_model(model, str(file)).pred_sem_seg.data[0].numpy()
    assert len(np.unique(expected)) > 1
    (result,) = predictors['segmentation'](file)
    assert np.array_equal(result.labels, expected)
    assert result.picture.shape == (53, 91, 3)
    assert predictors['segmentation'].classes == ['sky', 'sea', 'sand']
    for file in hostile(tmp_path):
        expected = inference_model(model, read_image(file)[..., ::-1]).pred_sem_seg.data[0].numpy()
        (result,) = predictors['segmentation'](file)
        assert np.array_equal(result.labels, expected), file.name


def test_instances_equal_mmdet(predictors, trained, tmp_path):
    from mmdet.apis import inference_detector, init_detector

    file = photo(tmp_path / 'street.png')
    cfg = Config.fromfile(trained['detection'][0])
    cfg.model.backbone.init_cfg = None
    cfg.test_dataloader.dataset.metainfo.palette = [(0, 0, 0)] * 2
    model = init_detector(cfg, str(trained['detection'][1]), device='cpu')
    expected = inference_detector(model, str(file)).pred_instances
    assert len(expected) > 1
    (result,) = predictors['detection'](file)
    for name, value in (('boxes', 'bboxes'), ('labels', 'labels'), ('scores', 'scores'), ('masks', 'masks')):
        assert np.array_equal(getattr(result, name), expected[value].numpy()), name
    for file in hostile(tmp_path):
        expected = inference_detector(model, read_image(file)[..., ::-1]).pred_instances
        (result,) = predictors['detection'](file)
        assert np.array_equal(result.boxes, expected.bboxes.numpy()), file.name
    assert predictors['detection'].classes == ['cat', 'dog']


def test_files_hold_what_was_predicted(predictors, task, tmp_path):
    files = [photo(tmp_path / 'a' / 'street.jpg'), photo(tmp_path / 'b' / 'street.jpg', 40, 64, seed=1)]
    results = predictors[task](files, out=tmp_path / 'out')
    for name, result in zip(('street', 'street_2'), results, strict=True):
        with Image.open(tmp_path / 'out' / 'pictures' / f'{name}.png') as picture:
            assert np.array_equal(np.asarray(picture), result.picture)
        if task == 'segmentation':
            with Image.open(tmp_path / 'out' / 'labels' / f'{name}.png') as labels:
                assert np.array_equal(np.asarray(labels), result.labels)
        else:
            saved = json.loads((tmp_path / 'out' / 'instances' / f'{name}.json').read_text())
            assert saved['labels'] == result.labels.tolist()
            assert np.array_equal(np.float32(saved['bboxes']), result.boxes)
            masks = [run_lengths.decode(mask) for mask in saved['masks']]
            assert np.array_equal(np.array(masks, dtype=bool), result.masks)
    index = json.loads((tmp_path / 'out' / 'results.json').read_text())
    kind = 'labels/street_2.png' if task == 'segmentation' else 'instances/street_2.json'
    assert index['images'][1] == {'image': str(files[1]), 'files': ['pictures/street_2.png', kind]}
    assert index['classes'] == predictors[task].classes


def test_only_sure_instances_are_drawn(trained, tmp_path):
    file = photo(tmp_path / 'street.png')
    (none,) = Predictor(*trained['detection'], score_thr=1.0)(file)
    (every,) = Predictor(*trained['detection'], score_thr=0.0)(file)
    assert np.array_equal(none.picture, read_image(file))
    assert not np.array_equal(every.picture, read_image(file))
    assert np.array_equal(none.scores, every.scores)


def test_damaged_images_are_reported_and_the_others_done(predictors, task, tmp_path):
    good = [photo(tmp_path / 'in' / 'a.jpg'), photo(tmp_path / 'in' / 'z.jpg')]
    whole = good[0].read_bytes()
    (tmp_path / 'in' / 'cut.jpg').write_bytes(whole[: len(whole) // 2])
    (tmp_path / 'in' / 'empty.png').touch()
    (tmp_path / 'in' / 'gone.png').symlink_to(tmp_path / 'nowhere.png')
    found = list(predictors[task].stream(tmp_path / 'in', tmp_path / 'out'))
    faults = {r.image.name: r.reason for r in found if isinstance(r, Faulty)}
    assert faults.keys() == {'cut.jpg', 'empty.png', 'gone.png'}
    assert 'truncated' in faults['cut.jpg']
    index = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert [entry['image'] for entry in index['images']] == [str(file) for file in good]
    assert len(index['faults']) == 3
    with pytest.raises(UnreadableImageError, match=r'3 of 5 (?s:.*)cut\.jpg'):
        predictors[task](tmp_path / 'in')


def test_an_image_that_breaks_the_model_does_not_stop_the_others(tmp_path, predictors, monkeypatch):
    files = [photo(tmp_path / 'a.png'), photo(tmp_path / 'b.png', 50), photo(tmp_path / 'c.png')]
    model = predictors['segmentation']._inferencer.model
    whole = model.test_step

    def test_step(data):
        if data['data_samples'][0].ori_shape[0] == 50:
            raise RuntimeError('out of memory')
        return whole(data)

    monkeypatch.setattr(model, 'test_step', test_step)
    kinds = [type(result) for result in predictors['segmentation'].stream(files)]
    assert kinds == [Segmented, Faulty, Segmented]
    with pytest.raises(UnreadableImageError, match=r'b\.png: RuntimeError: out of memory'):
        predictors['segmentation'](files)


def test_a_second_run_does_not_read_the_first_ones_pictures(predictors, task, tmp_path):
    photo(tmp_path / 'a.jpg')
    for _ in range(2):
        assert len(predictors[task](tmp_path, out=tmp_path)) == 1
    with pytest.raises(ValueError, match=r'pictures/a\.png'):
        predictors[task](tmp_path / 'pictures', out=tmp_path)


def test_the_callers_scope_is_unchanged(predictors, task, tmp_path):
    DefaultScope.get_instance('mine', scope_name='mmpretrain')
    predictors[task](photo(tmp_path / 'a.jpg'))
    assert DefaultScope.get_current_instance().scope_name == 'mmpretrain'


@pytest.mark.parametrize('mode', ['whole', 'slide'])
def test_sizes_that_the_patch_does_not_divide(tmp_path, mode):
    cfg = upernet(padded=False)
    if mode == 'slide':
        cfg.model.test_cfg = dict(mode='slide', crop_size=(64, 64), stride=(43, 43))
    cfg.test_dataloader.dataset.pipeline = [step for step in cfg.test_pipeline if step.type != 'Resize']
    predict = Predictor(cfg, save_weights(cfg, tmp_path / 'w.pth'))
    # Larger than the window, smaller in one direction, in both, smaller than a patch.
    for height, width in ((101, 77), (31, 91), (17, 13), (2, 1)):
        (result,) = predict(photo(tmp_path / f'{height}.png', height, width))
        assert result.labels.shape == (height, width)


def test_names_and_colours_come_from_the_checkpoint_first(tmp_path):
    cfg = upernet()
    meta = dict(classes=('eins', 'zwei', 'drei'), palette=[(255, 0, 0)] * 3)
    checkpoint = save_weights(cfg, tmp_path / 'w.pth', dataset_meta=meta)
    predict = Predictor(cfg, checkpoint)
    assert predict.classes == ['eins', 'zwei', 'drei']
    (result,) = predict(photo(tmp_path / 'black.png', 300, 300))
    with Image.open(tmp_path / 'black.png') as image:
        shift = result.picture.astype(int) - np.asarray(image)
    assert shift[..., 0].mean() > 20 > 0 > shift[..., 1].mean()


def test_more_than_256_classes_are_written_in_16_bits(tmp_path):
    cfg = upernet(classes=tuple(f'class {i}' for i in range(300)))
    checkpoint = save_weights(cfg, tmp_path / 'w.pth')
    state = torch.load(checkpoint, weights_only=True)
    state['state_dict']['decode_head.conv_seg.bias'][299] += 1e4
    torch.save(state, checkpoint)
    (result,) = Predictor(cfg, checkpoint)(photo(tmp_path / 'a.png'), out=tmp_path / 'out')
    with Image.open(result.files[1]) as labels:
        assert set(np.asarray(labels).ravel().tolist()) == {299}


@pytest.mark.slow
@pytest.mark.parametrize('config', ['upernet_vit_shapes.py', 'mask-rcnn_vit_shapes.py'])
def test_smoke_configs_predict(tmp_path, monkeypatch, config):
    cfg = Config.fromfile(SMOKE / config)
    checkpoint = save_weights(cfg, tmp_path / 'w.pth')
    monkeypatch.chdir(tmp_path)  # paths of data sets in configs are relative
    predict = Predictor(SMOKE / config, checkpoint)
    (result,) = predict(photo(tmp_path / 'a.jpg', 75, 101), out='out')
    assert result.picture.shape == (75, 101, 3)
    assert all((tmp_path / file).stat().st_size > 0 for file in result.files)
