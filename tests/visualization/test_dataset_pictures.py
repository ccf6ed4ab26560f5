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
