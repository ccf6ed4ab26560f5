"""Skip-connection weights as a heat map."""

import pytest
import torch
from builders import ARCHITECTURES, build, config
from visualization.checks import check_picture

from randsac_mm.visualization import draw_skip_weights


@pytest.mark.parametrize('norm', ['before', 'after', 'none'])
def test_weights_are_the_model_s(tmp_path, norm):
    model = build(config(neck=dict(ARCHITECTURES['skip'], memory_norm=norm)))
    with torch.no_grad():
        model.neck.skip.weight.zero_()
        model.neck.skip.weight[0, 1], model.neck.skip.weight[2, 0] = 2, -2
    result = draw_skip_weights(model, tmp_path / 'skip.png')
    assert result['weights'] == [[0, 2], [0, 0], [-2, 0]]
    assert (result['memory_norm'], 'grow with depth' in result['note']) == (norm, norm != 'before')
    check_picture(tmp_path / 'skip.png')
