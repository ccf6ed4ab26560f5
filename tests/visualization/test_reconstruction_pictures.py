"""Pictures of predictions show what the model predicts, and say where the target was used to show it."""

import numpy as np
import pytest
import torch
from builders import ARCHITECTURES, GRID, build, config
from PIL import Image

from randsac_mm.visualization import (
    draw_reconstruction,
    fit_image,
    load_weights,
    reconstruct,
    serialize,
    to_inputs,
    to_pixels,
)

MEAN, STD = [110.0, 120.0, 130.0], [50.0, 60.0, 70.0]


def make_model(norm_pix=True, neck=ARCHITECTURES['skip'], to_rgb=False, channels=3, partition=None):
    cfg = config(partition, neck=neck, norm_pix=norm_pix)
    cfg['backbone']['in_channels'] = cfg['head']['in_channels'] = channels
    cfg['data_preprocessor'].update(mean=MEAN[:channels], std=STD[:channels], to_rgb=to_rgb)
    return build(cfg)


@pytest.fixture
def photos():
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (31, 40, 3), dtype=np.uint8), random.integers(0, 256, (25, 19, 3), dtype=np.uint8)]


@pytest.mark.parametrize('to_rgb', [False, True], ids=['RGB', 'BGR'])
def test_images_come_back_from_the_model_as_they_went_in(photos, to_rgb):
    model = make_model(to_rgb=to_rgb)
    inputs = to_inputs(model, photos)
    assert inputs.shape == (2, 3, *model.backbone.img_size)
    assert inputs[:, 0].mean() == pytest.approx((to_pixels(model, inputs)[..., 0].mean() - MEAN[0]) / STD[0], abs=1e-3)
    expected = np.stack([fit_image(photo, model.backbone.img_size) for photo in photos])
    np.testing.assert_array_equal(to_pixels(model, inputs), expected)


def test_grey_models_get_grey_images(photos):
    model = make_model(channels=1)
    pixels = to_pixels(model, to_inputs(model, photos))
    assert pixels.shape == (2, *model.backbone.img_size, 3)
    assert (pixels == pixels[..., :1]).all()


def test_other_channels_are_refused(photos):
    with pytest.raises(ValueError, match=r'in_channels=2: pictures can be made of 1 \(grey\) or 3'):
        to_inputs(build(config()), photos)


def test_fit_image_covers_and_cuts_the_centre():
    image = np.zeros((10, 40, 3), np.uint8)
    image[:, 15:25] = 200
    fitted = fit_image(image, (20, 20))
    assert fitted.shape == (20, 20, 3)
    assert (fitted[:, 3:-3] == 200).all()
    assert fit_image(image, (7, 31)).shape == (7, 31, 3)
    np.testing.assert_array_equal(fit_image(image[..., :1], (20, 20)), fitted[..., :1])
    np.testing.assert_array_equal(fit_image(image, (10, 40)), image)


@pytest.mark.parametrize('neck', [ARCHITECTURES['skip'], None], ids=['skip', 'two-stream'])
def test_composite_is_the_first_segment_and_the_predictions(photos, neck):
    model = make_model(norm_pix=False, neck=neck)
    inputs = to_inputs(model, photos)
    done = reconstruct(model, inputs)
    raw = model.reconstruct(inputs, done.rank)
    patches = torch.where(raw.predicted[..., None], raw.pred, model.head.patchify(inputs))
    expected = to_pixels(model, model.head.unpatchify(patches, GRID))
    np.testing.assert_array_equal(done.composite, expected)
    assert not done.uses_target
    # The mean over tokens of the errors is the loss of each image.
    for i, errors in enumerate(done.errors):
        assert errors[0] is None
        sizes = [int((done.rank[i] == r).sum()) for r in range(1, len(errors))]
        loss = model.loss(inputs[i : i + 1], rank=done.rank[i : i + 1])['loss'].item()
        assert np.average(errors[1:], weights=sizes) == pytest.approx(loss, rel=1e-4)


def test_perfect_normalised_predictions_are_shown_as_the_original(photos, monkeypatch):
    model = make_model(norm_pix=True)
    inputs = to_inputs(model, photos)
    monkeypatch.setattr(model, 'predict', lambda images, layout: model.head.target(images))
    done = reconstruct(model, inputs)
    assert done.uses_target
    assert np.abs(done.composite.astype(int) - done.original).max() <= 1
    assert max(max(errors[1:]) for errors in done.errors) < 1e-10


def test_mode_of_the_model_is_kept(photos):
    model = make_model().train()
    reconstruct(model, to_inputs(model, photos))
    assert model.training


@pytest.mark.parametrize('norm_pix', [True, False])
def test_drawing(photos, tmp_path, monkeypatch, norm_pix):
    import randsac_mm.visualization.reconstruction as module

    texts = []
    draw_text = module.paragraph
    monkeypatch.setattr(module, 'paragraph', lambda text, *rest: texts.append(text) or draw_text(text, *rest))
    model = make_model(norm_pix, partition=dict(type='BlobPartition', hierarchy=(7, 3)))
    inputs = to_inputs(model, photos)
    drawn = serialize(model.data_preprocessor.serialization, 2, GRID, seed=1)
    sizes = []
    for steps in (2, 100):
        path = tmp_path / f'{steps}.png'
        done = draw_reconstruction(model, inputs, path, drawn.rank, drawn.groups, max_steps=steps)
        assert torch.equal(done.rank, drawn.rank)
        with Image.open(path) as picture:
            sizes.append(picture.width)
    assert sizes[0] < sizes[1]
    assert all(('TARGET patch' in text) == norm_pix for text in texts)
    with pytest.raises(ValueError, match='max_steps=0 must be at least 1'):
        draw_reconstruction(model, inputs, path, max_steps=0)


def test_step_shows_true_pixels_before_and_nothing_after():
    from randsac_mm.visualization.canvas import UNKNOWN
    from randsac_mm.visualization.reconstruction import _step

    ranks = np.arange(6)
    original, composite = np.full((20, 30, 3), 10, np.uint8), np.full((20, 30, 3), 250, np.uint8)
    panel = _step(original, composite, ranks, (2, 3), np.array([2, 3]))
    centres = panel[5::10, 5::10].reshape(6, 3)
    assert [tuple(c) for c in centres] == [(10,) * 3] * 2 + [(250,) * 3] * 2 + [UNKNOWN] * 2


def test_weights_fit_entirely_or_not_at_all(tmp_path):
    model, other = make_model(), make_model()
    state = {key: value + 1 for key, value in model.state_dict().items() if 'pos_embed' not in key}
    state['backbone.pos_embed'] = model.backbone.pos_embed.detach()
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': state, 'meta': {'epoch': 1}}, path)
    load_weights(other, path)
    for key, value in other.state_dict().items():
        assert torch.equal(value, state[key]), key

    torch.save({'state_dict': {('extra' if k == 'head.proj.bias' else k): v for k, v in state.items()}}, path)
    with pytest.raises(ValueError, match=r"missing: \['head.proj.bias'\]\n  left over: \['extra'\]"):
        load_weights(other, path)
    state['head.proj.bias'] = torch.zeros(5)
    torch.save(state, path)
    with pytest.raises(ValueError, match=r'head.proj.bias: \(5,\) in the checkpoint, \(27,\) in the model'):
        load_weights(other, path)
    path.write_bytes(b'no checkpoint at all')
    with pytest.raises(ValueError, match='no checkpoint that can be read safely'):
        load_weights(other, path)
    with pytest.raises(FileNotFoundError, match='there is no checkpoint'):
        load_weights(other, tmp_path / 'b.pth')
