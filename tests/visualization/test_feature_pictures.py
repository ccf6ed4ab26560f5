"""Principal components of patch features: right, repeatable, drawn in colours."""

import numpy as np
import pytest
import torch
from builders import ARCHITECTURES, build, config
from PIL import Image

from randsac_mm.visualization import draw_features, patch_features, principal_components
from randsac_mm.visualization.features import component_colours


def make_model(neck=ARCHITECTURES['skip'], **backbone):
    cfg = config(neck=neck, **backbone)
    cfg['backbone']['in_channels'] = cfg['head']['in_channels'] = 3
    return build(cfg)


def test_components_are_those_of_the_covariance():
    features = torch.randn(3, 11, 7) * torch.tensor([5.0, 0.1, 3, 1, 0.5, 2, 0.2]) + 4
    found = principal_components(features)
    tokens = features.reshape(-1, 7).double().numpy()
    values, vectors = np.linalg.eigh(np.cov(tokens.T))
    np.testing.assert_allclose(found.explained, values[::-1][:3] / values.sum(), rtol=1e-5)
    for k in range(3):
        direction, expected = found.directions[k].numpy(), vectors[:, -1 - k]
        assert abs(direction @ expected) == pytest.approx(1, abs=1e-5)
        assert direction[np.abs(direction).argmax()] > 0
        scores = (tokens - tokens.mean(0)) @ direction
        np.testing.assert_allclose(found.scores[..., k].reshape(-1), scores, rtol=1e-3, atol=1e-4)


def test_signs_and_colours_repeat_whatever_the_order_of_images():
    features = torch.randn(4, 9, 5)
    order = [2, 0, 3, 1]
    one, other = principal_components(features), principal_components(features[order])
    torch.testing.assert_close(one.directions, other.directions)
    colours = component_colours(one.scores)
    np.testing.assert_allclose(colours[order].astype(int), component_colours(other.scores).astype(int), atol=1)
    assert colours.dtype == np.uint8
    assert (colours.min(), colours.max()) == (0, 255)


@pytest.mark.parametrize('neck', [ARCHITECTURES['skip'], None], ids=['skip', 'two-stream'])
def test_features_are_the_backbone_s(neck):
    model = make_model(neck, out_indices=(0, 2), out_type='raw').train()
    inputs = torch.randn(2, 3, *model.backbone.img_size)
    first, last = model.backbone.eval()(inputs)
    model.train()
    torch.testing.assert_close(patch_features(model.backbone, inputs, 0), first)
    torch.testing.assert_close(patch_features(model.backbone, inputs), last)
    assert model.backbone.training
    with pytest.raises(ValueError, match=r'layer=\[3\] names layer 3, but there are only 3'):
        patch_features(model.backbone, inputs, 3)


@pytest.mark.parametrize('count', [1, 4, 5])
def test_drawing(tmp_path, count):
    model = make_model()
    inputs = torch.randn(count, 3, *model.backbone.img_size)
    result = draw_features(model, inputs, tmp_path / 'f.png', layer=-2)
    found = principal_components(patch_features(model.backbone, inputs, 1))
    assert result['layer'] == 1
    assert result['explained_variance'] == pytest.approx(found.explained)
    assert result['explained_variance_in_total'] == pytest.approx(sum(found.explained))
    assert ('variance_of_mean_of_place' in result) == (count >= 4)
    with Image.open(tmp_path / 'f.png') as picture:
        assert picture.width > 300


def test_place_and_content_share_the_variance():
    """Features that depend on the place only have all their variance in the mean over images."""
    from randsac_mm.visualization import features as module

    model = make_model()
    place, content = torch.randn(1, 24, 12), torch.randn(4, 1, 12) * 2
    shares = []
    for features in (place + 1e-4 * torch.randn(4, 24, 12), place + content):
        centred = features - features.mean((0, 1))
        expected = features.mean(0).sub(features.mean((0, 1))).square().sum() * 4 / centred.square().sum()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, 'patch_features', lambda *_, features=features: features)
            patch.setattr(module, 'save', lambda *_: None)
            result = draw_features(model, torch.zeros(4, 3, *model.backbone.img_size), 'unused.png')
        assert result['variance_of_mean_of_place'] == pytest.approx(expected.item(), rel=1e-4)
        shares.append(result['variance_of_mean_of_place'])
    assert shares[0] > 0.999 > 0.9 > shares[1]


def test_too_little_to_look_at():
    with pytest.raises(ValueError, match='3 tokens of 5 dims have no 3 principal components'):
        principal_components(torch.randn(1, 3, 5))
    with pytest.raises(ValueError, match='all tokens have the same features'):
        principal_components(torch.ones(2, 9, 5))
