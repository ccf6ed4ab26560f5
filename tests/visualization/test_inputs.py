"""Images become inputs without augmentation, and come back as pixels."""

import numpy as np
import pytest
from builders import build, config
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS
from PIL import Image

from randsac_mm.visualization.inputs import choose_images, fit_image, to_inputs, to_pixels

MEAN, STD = [110.0, 120.0, 130.0], [50.0, 60.0, 70.0]


def make_model(channels=3, **preprocessor):
    cfg = config(channels=channels)
    cfg['data_preprocessor'].update(preprocessor)
    return build(cfg)


def dataset_inputs(model, dataset, num):
    return choose_images(model, ConfigDict(train_dataloader=dict(dataset=dataset)), [], num, seed=1)[0]


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


@pytest.fixture
def photos():
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (31, 40, 3), dtype=np.uint8), random.integers(0, 256, (25, 19, 3), dtype=np.uint8)]


@pytest.mark.parametrize(('channels', 'to_rgb'), [(3, False), (3, True), (1, False)], ids=['RGB', 'BGR', 'grey'])
def test_images_come_back_from_the_model_as_they_went_in(photos, channels, to_rgb):
    model = make_model(channels, mean=MEAN[:channels], std=STD[:channels], to_rgb=to_rgb)
    photos = [np.broadcast_to(photo[..., :channels], photo.shape) for photo in photos]
    inputs = to_inputs(model, photos)
    assert inputs.shape == (2, channels, *model.backbone.img_size)
    assert inputs[:, 0].mean() == pytest.approx((to_pixels(model, inputs)[..., 0].mean() - MEAN[0]) / STD[0], abs=1e-3)
    expected = np.stack([fit_image(photo, model.backbone.img_size) for photo in photos])
    np.testing.assert_array_equal(to_pixels(model, inputs), expected)


def test_fit_image_covers_and_crops_the_centre():
    image = np.zeros((10, 40, 3), np.uint8)
    image[:, 15:25] = 200
    for channels in (1, 3):
        fitted = fit_image(image[..., :channels], (20, 22))
        assert fitted.shape == (20, 22, channels)
        assert (fitted[:, 4:-4] == 200).all()


@pytest.fixture
def folder(tmp_path):
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
    return dict(type='mmpretrain.CustomDataset', data_root=str(tmp_path), with_label=False, pipeline=pipeline)


def test_a_config_without_data():
    with pytest.raises(ValueError, match='no data set'):
        choose_images(make_model(), ConfigDict(test_dataloader=None), [], 3, 0)


def test_images_come_from_all_class_folders(tmp_path):
    for label, name in ((label, name) for label in 'abc' for name in range(5)):
        (tmp_path / label).mkdir(exist_ok=True)
        Image.new('RGB', (9, 9)).save(tmp_path / label / f'{name}.png')
    for num, folders in ((3, 'abc'), (4, 'abc'), (99, 'abc'), (2, 'ab')):
        inputs, names = choose_images(make_model(), ConfigDict(), [tmp_path], num, 0)
        assert len(inputs) == len(set(names)) == min(num, 15)
        assert {name.split('/')[-2] for name in names} == set(folders)
    one, two = sorted(tmp_path.glob('b/*'))[:2]
    assert choose_images(make_model(), ConfigDict(), [two, one], 2, 0)[1] == [str(two), str(one)]


@pytest.mark.slow
def test_data_sets_lose_augmentation_repetitions_and_copies(tmp_path, folder):
    repeated = dict(type='mmengine.RepeatDataset', times=7, dataset=folder)
    cached = dict(folder, type='CachedImages', short_side=9, cache_dir=str(tmp_path / 'c'))
    cached.pop('with_label')
    in_memory = dict(type='InMemoryDataset', dataset=cached, device='cpu', max_bytes=1)
    model = make_model(mean=[0.0] * 3, std=[255.0] * 3, to_rgb=True)
    rows, columns = np.mgrid[0:36, 0:54]
    expected = dataset_inputs(model, folder, 99)
    assert expected.shape == (5, 3, *model.backbone.img_size)
    for picture in to_pixels(model, expected):
        source = np.stack([4 * columns, 6 * rows, np.full_like(rows, picture[0, 0, 2])], axis=-1).astype(np.uint8)
        assert np.abs(picture.astype(int) - fit_image(source, model.backbone.img_size)).max() <= 1
    assert (dataset_inputs(model, folder, 3) == expected[:3]).all()
    for dataset in (repeated, dict(type='ConcatDataset', datasets=[repeated]), cached, in_memory):
        found = dataset_inputs(model, dataset, 99)
        assert len(found) == 5, 'every image once'
        assert (found == expected).all()
    assert not (tmp_path / 'c').exists()


def test_a_data_set_of_arrays(monkeypatch):
    """As mmpretrain's CIFAR10 without a pipeline."""
    items = [{'img': np.full((12, 18, 3), 20 * i, np.uint8)} for i in range(4)]
    monkeypatch.setattr(DATASETS, 'build', lambda cfg: items)
    model = make_model(mean=[0.0] * 3, std=[255.0] * 3)
    pixels = to_pixels(model, dataset_inputs(model, dict(type='CIFAR10'), 4))
    assert sorted(pixels[:, 0, 0, 0].tolist()) == [0, 20, 40, 60]
