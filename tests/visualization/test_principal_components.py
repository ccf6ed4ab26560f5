"""Principal components of patch features: right, repeatable, drawn in colours."""

import numpy as np
import pytest
import torch
from builders import ARCHITECTURES, build, config

from randsac_mm.visualization import principal_components as pc


def test_components_are_those_of_the_covariance():
    features = torch.randn(3, 11, 7) * torch.tensor([5.0, 0.1, 3, 1, 0.5, 2, 0.2]) + 4
    scores, pca = pc.principal_components(features)
    tokens = features.reshape(-1, 7).double().numpy()
    values, vectors = np.linalg.eigh(np.cov(tokens.T))
    np.testing.assert_allclose(pca.explained_variance_ratio_, values[::-1][:3] / values.sum(), rtol=1e-5)
    for k, direction in enumerate(pca.components_):
        assert abs(direction @ vectors[:, -1 - k]) == pytest.approx(1, abs=1e-5)
        expected = (tokens - tokens.mean(0)) @ direction
        np.testing.assert_allclose(scores[..., k].reshape(-1), expected, rtol=1e-3, atol=1e-4)


def test_colours_use_the_whole_range():
    colours = pc.component_colours(torch.randn(4, 9, 3) * 5 + 100)
    assert (colours.dtype, colours.shape) == (np.uint8, (4, 9, 3))
    assert (colours.min((0, 1)).tolist(), colours.max((0, 1)).tolist()) == ([0] * 3, [255] * 3)


@pytest.mark.parametrize('neck', [ARCHITECTURES['skip'], None], ids=['skip', 'two-stream'])
def test_features_are_the_backbone_s(neck):
    model = build(config(neck=neck, channels=3, out_indices=(0, 2), out_type='raw')).train()
    inputs = torch.randn(2, 3, *model.backbone.img_size)
    first, last = model.backbone.eval()(inputs)
    model.train()
    torch.testing.assert_close(pc.patch_features(model.backbone, inputs, 0), first)
    torch.testing.assert_close(pc.patch_features(model.backbone, inputs), last)
    assert model.backbone.training
    with pytest.raises(ValueError, match=r'layer=\[3\].* 3'):
        pc.patch_features(model.backbone, inputs, 3)


def test_place_and_content_share_the_variance():
    place, content = torch.randn(1, 24, 12), torch.randn(4, 1, 12) * 2
    assert pc.share_of_place(place + 1e-4 * torch.randn(4, 24, 12)) > 0.999
    variances = place.var((0, 1), correction=0).sum(), content.var((0, 1), correction=0).sum()
    assert pc.share_of_place(place + content) == pytest.approx((variances[0] / sum(variances)).item(), rel=1e-4)
