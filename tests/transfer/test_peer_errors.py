"""Contract: weights that do not belong to the backbone's method are refused, and the right method is named."""

import pytest
import torch
from peer_models import ARCH, CONFIGS, backbone, build

from randsac_mm.models import RandSACViT
from randsac_mm.transfer.peers import convert, likely_methods

METHODS = ['mae', 'beitv2', 'mocov3', 'maskfeat', 'cae', 'deit']
TABLE = 'rel_pos_bias.relative_position_bias_table'
SAME = [{'mae', 'mocov3'}, {'maskfeat', 'deit'}]  # of one structure, told apart only by tokens of the pre-training


@pytest.mark.parametrize('name', CONFIGS)
def test_wrong_methods_are_named(name):
    state, right = build(name).state_dict(), name.partition(',')[0]
    assert right in likely_methods(state, RandSACViT(ARCH, 24, 4))
    for method in METHODS:
        vit = backbone(method)
        if method == right or ({method, right} in SAME and method in likely_methods(state, vit)):
            vit.load_state_dict(convert(state, vit)[0], strict=True)
        else:
            with pytest.raises(ValueError, match=f"has method='{method}', but .* looks like one for .*'{right}'"):
                convert(state, vit)


def test_the_momentum_encoder_gives_moco_away():
    state = {**build('mocov3').state_dict(), 'momentum_encoder.steps': torch.tensor(3)}
    with pytest.raises(ValueError, match="has method='mae', but the checkpoint looks like one for method='mocov3'"):
        convert(state, backbone('mae'))


@pytest.mark.parametrize(('name', 'message'), [('mae', "looks like one for method='deit'"), ('cae', 'was trained')])
def test_fine_tuned_positions_are_not_fixed(name, message):
    state = build(name).state_dict()
    state['pos_embed'] += torch.randn_like(state['pos_embed'])
    with pytest.raises(ValueError, match=message):
        convert(state, backbone(name))


def test_grids_that_are_not_square():
    state = build('deit').state_dict()
    state['pos_embed'] = state['pos_embed'][:, :-2]
    with pytest.raises(
        ValueError, match=r'pos_embed holds 35 positions, 1 of them not .* 34 places are no square grid'
    ):
        convert(state, backbone('deit'))
    state = build('beitv2').state_dict()
    full = state[TABLE]
    state[TABLE] = full[1:]
    with pytest.raises(ValueError, match=rf'{TABLE} has 123 rows, 3 of them .* 120 places are no square grid'):
        convert(state, backbone('beitv2'))
    state[TABLE] = full[: 100 + 3]
    with pytest.raises(ValueError, match=r'10 x 10 offsets belong to no grid: their number is odd'):
        convert(state, backbone('beitv2'))
