"""Contract: one way from an image of any kind and size to features; what is done to it follows from its size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets.image_files import hostile
from export.tiny import build, model_config
from mmengine.config import Config
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from randsac_mm.datasets import Digits, UnreadableImageError, fit_image, read_image
from randsac_mm.evaluation import FrozenEncoder, extract_features
from randsac_mm.evaluation.features import normalise

SIZE = (28, 28)


def frozen(tmp_path=None, **options):
    """A frozen encoder and the model of its checkpoint, if there is a folder for it."""
    cfg = Config(dict(model=model_config(**{'size': SIZE, 'patch': 4, **options})))
    if tmp_path is None:
        return FrozenEncoder(cfg)
    model = build(cfg.model)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'a.pth')
    return FrozenEncoder(cfg, tmp_path / 'a.pth'), model


def pixels(image):
    """Return a prepared image as an array (H, W, C)."""
    return image.permute(1, 2, 0).numpy()


def picture(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_images_of_the_size_are_unchanged():
    image = picture(*SIZE)
    np.testing.assert_array_equal(pixels(frozen().prepare(image)), image)


@pytest.mark.parametrize('shape', [(29, 31), (57, 43), (43, 57), (300, 120)])
@pytest.mark.parametrize('size', [(28, 28), (16, 28)])
def test_larger_images_get_the_protocol_of_the_paper(shape, size):
    """The transforms of mmpretrain: the shorter side to 8/7 of the longer one of the size, the middle."""
    image = picture(*shape)
    resize = dict(type='ResizeEdge', scale=32, edge='short', backend='pillow', interpolation='bicubic')
    expected = dict(img=image)
    for step in (resize, dict(type='CenterCrop', crop_size=size[::-1])):
        expected = TRANSFORMS.build(step)(expected)
    np.testing.assert_array_equal(pixels(frozen(size=size).prepare(image)), expected['img'])


@pytest.mark.parametrize('shape', [(14, 14), (28, 40), (40, 27), (3, 500), (27, 28)])
def test_smaller_images_are_enlarged_and_lose_nothing_that_fits(shape):
    image = picture(*shape)
    np.testing.assert_array_equal(pixels(frozen().prepare(image)), fit_image(image, SIZE))


def test_channels_are_the_encoders():
    grey = picture(*SIZE, 1)
    for image in (grey, grey[..., 0]):
        np.testing.assert_array_equal(pixels(frozen().prepare(image)), grey.repeat(3, 2))
        np.testing.assert_array_equal(pixels(frozen(channels=1).prepare(image)), grey)
    np.testing.assert_array_equal(pixels(frozen(channels=1).prepare(grey.repeat(3, 2))), grey)


def test_files_arrays_and_pillow_images_are_equal(tmp_path):
    encoder = frozen()
    files = [file for file in hostile(tmp_path) if '12' not in file.name and '16' not in file.name]  # bits
    assert len(files) > 3
    expected = [encoder.prepare(read_image(file)) for file in files]
    for file, prepared in zip(files, expected, strict=True):
        with Image.open(file) as image:
            assert torch.equal(encoder.prepare(image), prepared), file.name
    features = encoder.embed([pixels(prepared) for prepared in expected])
    assert torch.equal(encoder.embed(files), features)
    torch.testing.assert_close(encoder.embed(str(files[1])), features[1:2], rtol=0, atol=1e-5)


def test_features_are_those_of_the_model_for_any_batch_size(tmp_path):
    encoder, model = frozen(tmp_path)
    images = np.stack([picture(*SIZE), picture(*SIZE)[::-1], 255 - picture(*SIZE)])
    inputs = model.data_preprocessor({'inputs': torch.from_numpy(images.copy()).permute(0, 3, 1, 2)})['inputs']
    with torch.no_grad():
        expected = model.backbone(inputs)[-1]
    for size in (1, 2, 64):
        torch.testing.assert_close(encoder.patch_features(images, size), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(encoder.embed(images, size), expected.mean((2, 3)), rtol=0, atol=1e-5)
    assert (encoder.dims, encoder.patch_size, encoder.image_size) == (12, 4, SIZE)


@pytest.mark.parametrize('out_type', ['raw', 'avg_featmap'])
def test_patch_features_of_any_kind_of_output(out_type):
    encoder = frozen(kind='ImageClassifier', out_type=out_type)
    assert encoder.patch_features(picture(*SIZE)).shape == (1, 12, 7, 7)
    assert encoder.backbone.out_type == out_type
    assert encoder.embed(picture(*SIZE)).shape == (1, 12)


@pytest.mark.parametrize(('model', 'patch'), [('VisionTransformer', 4), ('ResNet', 32)])
def test_other_backbones(model, patch):
    arch = dict(embed_dims=12, num_layers=2, num_heads=2, feedforward_channels=8)
    kinds = {
        'VisionTransformer': dict(arch=arch, img_size=28, patch_size=4),
        'ResNet': dict(depth=18, base_channels=8, stem_channels=8),
    }
    encoder = FrozenEncoder(Config(dict(model=dict(backbone=dict(type=model, **kinds[model])))))
    assert encoder.image_size == ((28, 28) if model == 'VisionTransformer' else (224, 224))
    assert encoder.patch_size == patch
    features = encoder.patch_features(picture(*SIZE))
    assert encoder.embed(picture(*SIZE)).shape == features.shape[:2] == (1, encoder.dims)


def test_normalisation_is_that_of_the_config(tmp_path):
    encoder, model = frozen(tmp_path, channels=1, size=(8, 8))
    images = Digits('test').images[:9]
    assert torch.equal(encoder.preprocess(images), normalise(model.data_preprocessor, images))
    enlarged = frozen(channels=1, size=(16, 24)).preprocess(images)
    assert enlarged.shape == (9, 1, 16, 24), 'images in memory of another size are fitted as files are'
    cfg = Config(dict(model=model_config(size=(4, 4))))
    cfg.model.data_preprocessor = dict(mean=[1.0, 2.0, 3.0], std=[1.0, 1.0, 1.0], to_rgb=True)
    assert FrozenEncoder(cfg).preprocess(torch.zeros(1, 3, 4, 4))[0, :, 0, 0].tolist() == [-1, -2, -3]  # RGB
    cfg.model.pop('data_preprocessor')
    assert torch.equal(FrozenEncoder(cfg).preprocess(torch.ones(1, 3, 4, 4)), torch.ones(1, 3, 4, 4))


def test_images_in_memory_and_files_of_them_have_the_same_features(tmp_path):
    """CIFAR's size at the encoder's own and at others: what evaluate.py computes and what embed.py does."""
    images = np.stack([picture(32, 32), 255 - picture(32, 32)])
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f'{i}.png')
    for size in (28, 32, 40):
        encoder = frozen(size=(size, size))
        tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
        expected = extract_features(encoder.backbone, tensor, 256, encoder.preprocess)
        torch.testing.assert_close(encoder.embed(sorted(tmp_path.glob('*.png'))), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (np.zeros((8, 8, 3)), 'float64'),
        (np.zeros((3, 8, 8), np.uint8), r'\(3, 8, 8\).*\(H, W, 1 or 3\)'),
        (Image.new('F', (8, 8)), 'mode F'),
        ([], 'no image'),
    ],
)
def test_what_is_no_image(image, message):
    with pytest.raises(ValueError, match=message):
        frozen().embed(image)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    (tmp_path / 'cut.png').write_bytes(b'')
    with pytest.raises(UnreadableImageError, match=r'cut\.png'):
        frozen().embed([picture(*SIZE), tmp_path / 'cut.png'])
