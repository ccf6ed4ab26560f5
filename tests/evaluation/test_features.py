"""Contract: the last output, averaged over tokens, in evaluation mode, whatever the batch size."""

import pytest
import torch
from mmengine.registry import DefaultScope
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
        assert not features.requires_grad
        torch.testing.assert_close(features, expected)
    torch.testing.assert_close(extract_features(backbone, images + 1, 4, lambda batch: batch - 1), expected)
    assert extract_features(backbone.bfloat16(), images.bfloat16(), 4).dtype == torch.float32


def test_modes_and_statistics_stay(images):
    backbone = Backbone().train()
    backbone.drop.eval()
    extract_features(backbone, images, 4)
    assert (backbone.training, backbone.norm.training, backbone.drop.training) == (True, True, False)
    assert backbone.norm.num_batches_tracked == 0
    with pytest.raises(AssertionError):
        extract_features(backbone, images, 5)  # fails inside the backbone
    assert backbone.norm.training


def test_bad_input(images):
    with pytest.raises(ValueError, match=r'\(3, 2, 7\)'):
        extract_features(Backbone(), images[0])
    with pytest.raises(ValueError, match=r'\(0, 3, 2, 7\)'):
        extract_features(Backbone(), images[:0])
    with pytest.raises(ValueError, match=r'backbone returned \(11,\)'):
        extract_features(nn.Flatten(0), torch.zeros(11, 1, 1, 1))


@torch.no_grad()
@pytest.mark.parametrize('out_type', ['mae', 'raw', 'featmap', 'cls_token'])
def test_features_of_mmpretrains_backbones_are_their_patches(out_type):
    # MAE's backbone masks unless it gets None, and then returns the order of the patches last.
    kind = dict(type='MAEViT') if out_type == 'mae' else dict(type='VisionTransformer', out_type=out_type)
    arch = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        vit = MODELS.build(dict(arch=arch, img_size=8, patch_size=2, **kind))
    vit.eval()
    images = torch.rand(3, 3, 8, 8)
    last = (vit(images, mask=None) if out_type == 'mae' else vit(images))[-1]
    if out_type in ('mae', 'raw'):
        assert last.shape == (3, 17, 8)  # with a class token
        last = last[:, 1:].mean(1)
    elif out_type == 'featmap':
        last = last.mean((2, 3))
    torch.testing.assert_close(extract_features(vit, images), last)
