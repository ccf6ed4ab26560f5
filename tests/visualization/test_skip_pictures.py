"""Skip-connection weights as a heat map."""

import importlib

import numpy as np
import pytest
import torch
from builders import ARCHITECTURES, build, config
from PIL import Image

from randsac_mm.visualization import draw_skip_weights, skip_weights

# The package has a function of that name.
module = importlib.import_module('randsac_mm.visualization.skip_weights')


@pytest.mark.parametrize('norm', ['before', 'after', 'none'])
def test_weights_are_the_model_s_and_colours_diverge_from_zero(tmp_path, monkeypatch, norm):
    figures = []
    save = module.save_figure
    monkeypatch.setattr(module, 'save_figure', lambda figure, path: figures.append(figure) or save(figure, path))
    model = build(config(neck=dict(ARCHITECTURES['skip'], memory_norm=norm)))
    with torch.no_grad():
        model.neck.skip.weight.zero_()
        model.neck.skip.weight[0, 1], model.neck.skip.weight[2, 0] = 2, -2
    result = draw_skip_weights(model, tmp_path / 'skip.png')
    expected = [[0, 2], [0, 0], [-2, 0]]
    assert result['weights'] == expected
    np.testing.assert_array_equal(skip_weights(model), expected)
    assert (result['memory_norm'], 'grow with depth' in result['note']) == (norm, norm != 'before')
    (drawn,) = figures[0].axes[0].images
    np.testing.assert_array_equal(drawn.get_array(), expected)
    red, blue, white = drawn.to_rgba([2.0, -2.0, 0.0])[:, :3]
    assert red[0] > 2 * red[2]
    assert blue[2] > 2 * blue[0]
    assert white.min() > 0.95
    with Image.open(tmp_path / 'skip.png') as picture:
        assert picture.width > 300


def test_models_without_skip_connections_say_so(tmp_path):
    with pytest.raises(ValueError, match=r'no skip connections: all its decoder layers .* \(model.neck.skip=False'):
        draw_skip_weights(build(config(neck=ARCHITECTURES['transformer'])), tmp_path / 'skip.png')
    with pytest.raises(ValueError, match='TwoStreamRandSAC has no skip connections: it has no decoder'):
        draw_skip_weights(build(config(neck=None)), tmp_path / 'skip.png')
    assert not list(tmp_path.iterdir())
