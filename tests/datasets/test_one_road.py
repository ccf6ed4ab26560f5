"""Every library and every stage reads the pixels of :func:`read_image`, whatever the config names as its reader."""

import shutil

import numpy as np
import pytest
from datasets.image_files import hostile
from export.tiny import model_config
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, DefaultScope
from mmpretrain.registry import DATASETS

from randsac_mm.datasets import read_image, use_strict_readers
from randsac_mm.engine.launch import load_config
from randsac_mm.evaluation import FrozenEncoder
from randsac_mm.evaluation.labelled_images import load_labelled

IMAGE, MASK = dict(type='LoadImageStrict'), dict(type='LoadMaskStrict')


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    return hostile(tmp_path_factory.mktemp('hostile'))


def test_hostile_files_are_upright_and_neither_dark_nor_flat(files):
    assert {read_image(file).shape for file in files if 'turned' in file.name} == {(53, 37, 3)}
    assert all(read_image(file).max() > 140 and read_image(file).std() > 20 for file in files)


@pytest.mark.parametrize(
    'config',
    [
        'randsac/vit-b_folder.py',
        'randsac/vit-b_in1k.py',
        'linear_probe/linear_probe_vit-b_in1k.py',
        'finetune/finetune_vit-b_in1k.py',
        'segmentation/upernet_vit-b_ade20k-512.py',
        'detection/mask-rcnn_vit-b_fpn_lsj-100e_coco.py',
    ],
)
def test_pipelines_of_all_stages(root, files, config):
    cfg = load_config(str(root / 'configs' / config), None, None, 'none')
    datasets = [loader.dataset for key, loader in cfg.items() if key.endswith('_dataloader') and loader]
    assert datasets
    for dataset in datasets:
        while 'pipeline' not in dataset or dataset.type == 'MultiImageMixDataset':
            dataset = dataset.dataset
        first, *others = dataset.pipeline
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            load = TRANSFORMS.build(first)
        assert not any(step.type == 'LoadImageFromFile' for step in others)
        assert cfg.default_scope != 'mmseg' or MASK in others
        for file in files:
            results = load(dict(img_path=str(file)))
            np.testing.assert_array_equal(results['img'][..., ::-1], read_image(file), file.name)
            assert results['ori_shape'] == results['img_shape'] == results['img'].shape[:2]


def test_data_sets_of_pre_training_and_evaluation(tmp_path, files):
    for folder in ('train/one', 'train/two', 'val/one', 'val/two'):
        shutil.copytree(files[0].parent, tmp_path / folder)
    folder = DATASETS.build(dict(type='UnlabelledImageFolder', data_root=str(tmp_path / 'train'), pipeline=[IMAGE]))
    assert len(folder) == 2 * len(files)
    for item in folder:
        np.testing.assert_array_equal(item['img'][..., ::-1], read_image(item['img_path']))
    model = model_config(size=(32, 32), patch=8)
    pixels = load_labelled(str(tmp_path), FrozenEncoder(Config(dict(model=model)))).test.images.permute(0, 2, 3, 1)
    resize = TRANSFORMS.build(
        dict(type='mmpretrain.ResizeEdge', scale=37, edge='short', backend='pillow', interpolation='bicubic')
    )
    crop = TRANSFORMS.build(dict(type='CenterCrop', crop_size=(32, 32)))
    expected = {crop(resize(dict(img=read_image(file))))['img'].tobytes() for file in files}
    assert {image.numpy().tobytes() for image in pixels} == expected


def test_entries_are_replaced_wherever_they_stand():
    image, labels = dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')
    cfg = Config(
        dict(
            default_scope='mmseg',
            loader=dict(dataset=dict(dataset=dict(pipeline=[dict(image, imdecode_backend='pillow')]))),
            several=[(dict(type='mmdet.LoadImageFromFile', color_type='grayscale', backend_args=None), labels)],
            hooks=[dict(type='Hook', test=[dict(type=LoadImageFromFile), dict(type='mmdet.LoadAnnotations')])],
            tta_pipeline=[image, dict(transforms=[[dict(type='mmseg.LoadAnnotations', reduce_zero_label=True)]])],
        )
    )
    use_strict_readers(cfg)
    assert cfg.loader.dataset.dataset.pipeline == [IMAGE]
    assert cfg.several == [({**IMAGE, 'color_type': 'grayscale'}, MASK)]
    assert cfg.hooks[0].test == [IMAGE, dict(type='mmdet.LoadAnnotations')]
    assert cfg.tta_pipeline == [IMAGE, dict(transforms=[[{**MASK, 'reduce_zero_label': True}]])]
    use_strict_readers(detection := Config(dict(default_scope='mmdet', pipeline=[labels])))
    assert detection.pipeline == [labels]


@pytest.mark.parametrize(
    'option', [dict(to_float32=True), dict(color_type='unchanged'), dict(backend_args=dict(backend='petrel'))]
)
def test_entries_with_other_options_stay_with_a_warning(option, monkeypatch):
    logged = []
    monkeypatch.setattr('randsac_mm.datasets.transforms.print_log', lambda text, *args: logged.append(text))
    use_strict_readers(cfg := Config(dict(pipeline=[dict(type='LoadImageFromFile', **option)])))
    assert cfg.pipeline == [dict(type='LoadImageFromFile', **option)]
    assert len(logged) == 1
    assert next(iter(option)) in logged[0]
