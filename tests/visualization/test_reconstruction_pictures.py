"""Pictures of predictions show what the model predicts, and name where the target was used to show it."""

import numpy as np
import pytest
import torch
from builders import ARCHITECTURES, GRID, build, config

from randsac_mm.visualization.inputs import to_pixels
from randsac_mm.visualization.reconstruction import reconstruct, step_image


def make_model(neck=ARCHITECTURES['skip'], norm_pix=True):
    cfg = config(neck=neck, norm_pix=norm_pix, channels=3)
    cfg['data_preprocessor'].update(mean=[110.0, 120.0, 130.0], std=[50.0, 60.0, 70.0])
    return build(cfg)


@pytest.fixture
def inputs():
    return torch.randn(2, 3, 12, 18)


@pytest.mark.parametrize('neck', [ARCHITECTURES['skip'], None], ids=['skip', 'two-stream'])
def test_composite_is_the_first_segment_and_the_predictions(inputs, neck):
    model = make_model(neck, norm_pix=False).eval()
    raw = model.reconstruct(inputs)
    composite, errors = reconstruct(model.train(), inputs, raw.rank)
    assert model.training
    patches = torch.where(raw.predicted[..., None], raw.pred, model.head.patchify(inputs))
    np.testing.assert_array_equal(composite, to_pixels(model, model.head.unpatchify(patches, GRID)))
    # The mean over tokens of the errors is the loss of each image.
    for i, of_image in enumerate(errors):
        assert of_image[0] is None
        sizes = raw.rank[i].bincount()[1:]
        loss = model.eval().loss(inputs[i : i + 1], rank=raw.rank[i : i + 1])['loss'].item()
        assert np.average(of_image[1:], weights=sizes) == pytest.approx(loss, rel=1e-4)


def test_perfect_normalised_predictions_are_shown_as_the_original(inputs, monkeypatch):
    model = make_model()
    perfect = model.reconstruct(inputs)._replace(pred=model.head.target(inputs))
    monkeypatch.setattr(model, 'reconstruct', lambda *_: perfect)
    composite, errors = reconstruct(model, inputs, perfect.rank)
    assert np.abs(composite.astype(int) - to_pixels(model, inputs)).max() <= 1
    assert max(max(of_image[1:]) for of_image in errors) < 1e-10


def test_step_shows_true_pixels_before_and_nothing_after():
    original, composite = np.full((20, 30, 3), 10, np.uint8), np.full((20, 30, 3), 250, np.uint8)
    image = step_image(original, composite, np.array([2, 1, 0, 3, 5, 4]), (2, 3), np.array([2, 3]))
    centres = image[5::10, 5::10].reshape(6, 3).tolist()
    blank = centres[4]
    assert blank not in ([10] * 3, [250] * 3)
    assert centres == [[250] * 3, [10] * 3, [10] * 3, [250] * 3, blank, blank]
