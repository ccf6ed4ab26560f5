"""Contract: the last output, averaged over tokens, in evaluation mode, whatever the batch size."""

import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn

from randsac_mm.evaluation import extract_features


class Backbone(nn.Module):
    """Patches of 1 pixel as tokens; dropout and batch norm betray a wrong mode."""

    def __init__(self, shape: str = 'tokens') -> None:
        super().__init__()
        self.shape = shape
        self.first, self.norm, self.drop = nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.Dropout(0.5)

    def forward(self, images):
        assert len(images) <= 4
        early = self.first(images)
        last = self.drop(self.norm(early))
        kinds = {'tokens': last.flatten(2).transpose(1, 2), 'map': last, 'vector': last.mean((2, 3))}
        return early, kinds[self.shape]


@pytest.fixture
def images():
    return torch.rand(11, 3, 2, 7)


@pytest.mark.parametrize('shape', ['tokens', 'map', 'vector'])
def test_average_of_the_last_output(images, shape):
    backbone = Backbone(shape)
    with torch.no_grad():
        expected = (backbone.first(images) / (1 + backbone.norm.eps) ** 0.5).mean((2, 3))
    for batch_size in (1, 3, 4):
        features = extract_features(backbone, images, batch_size)
        assert features.shape == (11, 5)
        assert features.dtype == torch.float32
        assert not features.requires_grad
        torch.testing.assert_close(features, expected)


def test_modes_and_statistics_stay(images):
    backbone = Backbone().train()
    backbone.drop.eval()
    extract_features(backbone, images, 4)
    assert (backbone.training, backbone.norm.training, backbone.drop.training) == (True, True, False)
    assert backbone.norm.num_batches_tracked == 0
    with pytest.raises(AssertionError):
        extract_features(backbone, images, 5)  # fails inside the backbone
    assert backbone.norm.training


def test_preprocess_sees_each_batch(images):
    backbone = Backbone()
    pixels = (images * 255).byte()
    features = extract_features(backbone, pixels, 4, lambda batch: batch.float() / 255)
    torch.testing.assert_close(features, extract_features(backbone, pixels.float() / 255, 4))


def test_low_precision_becomes_float32(images):
    assert extract_features(Backbone('vector').bfloat16(), images.bfloat16(), 4).dtype == torch.float32


def test_bad_input(images):
    with pytest.raises(ValueError, match='batch_size=0 must be at least 1'):
        extract_features(Backbone(), images, 0)
    with pytest.raises(ValueError, match=r'images have shape \(3, 2, 7\), expected \(n, C, H, W\)'):
        extract_features(Backbone(), images[0])
    with pytest.raises(ValueError, match=r'images have shape \(0, 3, 2, 7\)'):
        extract_features(Backbone(), images[:0])
    with pytest.raises(ValueError, match=r'the backbone returned \(11,\), expected a tensor \(B, N, D\)'):
        extract_features(nn.Flatten(0), torch.zeros(11, 1, 1, 1))


def test_backbones_of_other_methods_see_whole_images_and_lose_their_class_token():
    # MAE's backbone masks unless it is told not to, and then returns the order of the patches last.
    vit = MODELS.build(
        dict(
            type='mmpretrain.MAEViT',
            arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16),
            img_size=8,
            patch_size=2,
        )
    ).eval()
    pictures = torch.rand(3, 3, 8, 8)
    with torch.no_grad():
        tokens = vit(pictures, mask=None)[-1]
    assert tokens.shape == (3, 17, 8)
    torch.testing.assert_close(extract_features(vit, pictures), tokens[:, 1:].mean(1))
