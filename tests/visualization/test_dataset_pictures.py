"""Images of a config's data set come without its augmentation."""

import numpy as np
import pytest
from builders import build, config
from mmengine.config import ConfigDict
from PIL import Image

from randsac_mm.visualization import dataset_inputs, fit_image, to_pixels


def make_model():
    cfg = config()
    cfg['backbone']['in_channels'] = cfg['head']['in_channels'] = 3
    cfg['data_preprocessor'].update(mean=[0.0] * 3, std=[255.0] * 3, to_rgb=True)
    return build(cfg)


@pytest.fixture
def folder_config(tmp_path):
    # Smooth, so that the resizing of two libraries agrees.
    rows, columns = np.mgrid[0:36, 0:54]
    for i in range(5):
        image = np.stack([4 * columns, 6 * rows, np.full_like(rows, 50 * i)], axis=-1).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f'{i}.png')
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='RandomResizedCrop', scale=4, crop_ratio_range=(0.2, 0.3)),
        dict(type='RandomFlip', prob=1.0),
        dict(type='PackInputs'),
    ]
    dataset = dict(type='mmpretrain.CustomDataset', data_root=str(tmp_path), with_label=False, pipeline=pipeline)
    return ConfigDict(train_dataloader=dict(dataset=dataset), test_dataloader=None)


@pytest.mark.slow
def test_images_are_resized_and_cropped_only(folder_config):
    from mmengine.registry import DefaultScope

    model = make_model()
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        inputs = dataset_inputs(model, folder_config, 3, seed=1)
        again = dataset_inputs(model, folder_config, 3, seed=1)
    assert inputs.shape == (3, 3, *model.backbone.img_size)
    assert (inputs == again).all()
    pixels = to_pixels(model, inputs)
    blue = {round(p[..., 2].mean() / 50) for p in pixels}
    assert len(blue) == 3, 'three different images'
    rows, columns = np.mgrid[0:36, 0:54]
    for picture in pixels:
        source = np.stack([4 * columns, 6 * rows, np.full_like(rows, picture[0, 0, 2])], axis=-1).astype(np.uint8)
        assert np.abs(picture.astype(int) - fit_image(source, model.backbone.img_size)).max() <= 1


def test_a_config_without_data(folder_config):
    with pytest.raises(ValueError, match='has no data set; name image files instead'):
        dataset_inputs(make_model(), ConfigDict(test_dataloader=None), 3, 0)


@pytest.mark.slow
def test_no_copy_of_the_whole_data_set_is_made(tmp_path, folder_config):
    """Neither a cache on the disk nor all images in memory, for a few pictures."""
    from mmengine.registry import DefaultScope

    model = make_model()
    plain = folder_config.train_dataloader.dataset
    cached = dict(
        plain, type='CachedImages', source='UnlabelledImageFolder', short_side=9, cache_dir=str(tmp_path / 'c')
    )
    cached.pop('with_label')
    wrapped = dict(type='InMemoryDataset', dataset=cached, device='cpu', max_bytes=1)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        expected = dataset_inputs(model, folder_config, 3, seed=1)
        for dataset in (cached, wrapped):
            found = dataset_inputs(model, ConfigDict(train_dataloader=dict(dataset=dataset)), 3, seed=1)
            assert (to_pixels(model, found).astype(int) - to_pixels(model, expected)).max() <= 1
    assert not (tmp_path / 'c').exists()
    assert cached['type'] == 'CachedImages', 'the config is left as it was'


@pytest.mark.slow
@pytest.mark.parametrize('wrapper', ['repeated', 'joined'])
def test_wrapped_data_sets_lose_augmentation_and_repetitions(folder_config, wrapper):
    from mmengine.registry import DefaultScope

    model = make_model()
    plain = folder_config.train_dataloader.dataset
    repeated = dict(type='mmengine.RepeatDataset', times=7, dataset=plain)
    wrapped = repeated if wrapper == 'repeated' else dict(type='ConcatDataset', datasets=[repeated])
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        expected = dataset_inputs(model, folder_config, 99, seed=1)
        found = dataset_inputs(model, ConfigDict(train_dataloader=dict(dataset=wrapped)), 99, seed=1)
    assert len(found) == 5, 'every image once'
    assert (found == expected).all()


def test_a_data_set_of_arrays_without_a_pipeline():
    from mmengine.registry import DATASETS, DefaultScope

    model = make_model()

    class Arrays(list):
        """Serves images as arrays, as mmpretrain's CIFAR10 does without a pipeline."""

        def __init__(self):
            super().__init__({'img': np.full((12, 18, 3), 20 * i, np.uint8), 'gt_label': i} for i in range(4))

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        DATASETS.register_module(module=Arrays, force=True)
        dataset = dict(type='InMemoryDataset', dataset=dict(type='mmengine.Arrays'))
        inputs = dataset_inputs(model, ConfigDict(train_dataloader=dict(dataset=dataset)), 4, seed=0)
    assert sorted(int(p[0, 0, 0]) for p in to_pixels(model, inputs)) == [0, 20, 40, 60]
