"""Skip-connection weights as a heat map."""

import numpy as np
import pytest
import torch
from builders import ARCHITECTURES, build, config
from PIL import Image

from randsac_mm.visualization import draw_skip_weights, skip_weights


@pytest.mark.parametrize('norm', ['before', 'after', 'none'])
def test_weights_are_the_model_s_and_colours_diverge_from_zero(tmp_path, norm):
    model = build(config(neck=dict(ARCHITECTURES['skip'], memory_norm=norm)))
    with torch.no_grad():
        model.neck.skip.weight.zero_()
        model.neck.skip.weight[0, 1], model.neck.skip.weight[2, 0] = 2, -2
    result = draw_skip_weights(model, tmp_path / 'skip.png')
    expected = [[0, 2], [0, 0], [-2, 0]]
    assert result['weights'] == expected
    np.testing.assert_array_equal(skip_weights(model), expected)
    assert (result['memory_norm'], 'grow with depth' in result['note']) == (norm, norm != 'before')
    with Image.open(tmp_path / 'skip.png') as picture:
        colours = {colour for _, colour in picture.convert('RGB').getcolors(200_000)}
    assert {(103, 0, 31), (5, 48, 97), (246, 247, 247)} <= colours, 'red, blue, and white for 0'


def test_models_without_skip_connections_say_so(tmp_path):
    with pytest.raises(ValueError, match=r'no skip connections: all its decoder layers .* \(model.neck.skip=False'):
        draw_skip_weights(build(config(neck=ARCHITECTURES['transformer'])), tmp_path / 'skip.png')
    with pytest.raises(ValueError, match='TwoStreamRandSAC has no skip connections: it has no decoder'):
        draw_skip_weights(build(config(neck=None)), tmp_path / 'skip.png')
    assert not list(tmp_path.iterdir())
