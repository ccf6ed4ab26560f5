"""Contract: decoder layers read positions and mixtures of the encoder's layers, Z^l = sum over k of W[k, l] H^k."""

import pytest
import torch
from builders import DECODER, GRID, build, config, images
from torch import nn

from randsac_mm.models import RandSACDecoder, SkipConnection
from randsac_mm.segments import dense_rank, raster_layout

L_ENC, L_DEC, DIMS = 5, 3, 7


def states(batch_size=2, tokens=11, dims=DIMS, layers=L_ENC):
    return [torch.randn(batch_size, tokens, dims) for _ in range(layers)]


def skip(**kwargs):
    module = SkipConnection(L_ENC, L_DEC, DIMS, **kwargs)
    for norm in module.norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return module


@pytest.mark.parametrize('init', ['last', 'mean', 'normal'])
@pytest.mark.parametrize('norm', ['none', 'before', 'after'])
def test_mixture_equals_the_double_sum(init, norm):
    module, hidden = skip(init=init, norm=norm), states()
    nn.init.normal_(module.weight)
    assert module.weight.shape == (L_ENC, L_DEC)
    norms = {'none': 0, 'before': L_ENC, 'after': L_DEC}[norm]
    assert len({id(own) for own in module.norms}) == norms  # no norm is shared
    found = module(hidden)
    assert len(found) == L_DEC
    for layer, memory in enumerate(found):
        expected = 0
        for k, h in enumerate(hidden):
            expected = expected + module.weight[k, layer] * (module.norms[k](h) if norm == 'before' else h)
        if norm == 'after':
            expected = module.norms[layer](expected)
        torch.testing.assert_close(memory, expected)


def test_initial_weights():
    last = skip(init='last').weight
    assert last.tolist() == [[0.0] * L_DEC] * (L_ENC - 1) + [[1.0] * L_DEC]
    assert torch.equal(skip(init='mean').weight, torch.full((L_ENC, L_DEC), 1 / L_ENC))
    normal = SkipConnection(400, 300, 4, init='normal').weight
    assert normal.mean().item() == pytest.approx(0, abs=1e-3)
    assert normal.std().item() == pytest.approx(400**-0.5, rel=0.02)


@torch.no_grad()
def test_starting_from_the_last_layer_is_the_masked_transformer():
    """Without norms around the mixture, ``skip_init='last'`` makes exactly the model without skip connections."""
    with_skip = build(config(neck=dict(skip=True, skip_init='last', memory_norm='none')))
    without = build(config(neck=dict(skip=False)))
    nn.init.zeros_(with_skip.neck.skip.weight)[-1] = 1  # `build` changes every parameter
    state = with_skip.state_dict()
    del state['neck.skip.weight']
    without.load_state_dict(state, strict=True)
    x = images()
    rank = with_skip.data_preprocessor.draw(x)['rank']
    torch.testing.assert_close(with_skip.reconstruct(x, rank).pred, without.reconstruct(x, rank).pred)


def decoder(**kwargs):
    return RandSACDecoder(**{**DECODER, 'encoder_dims': DIMS, 'encoder_layers': L_ENC, **kwargs})


@pytest.mark.parametrize('norm_position', ['pre', 'post'])
def test_output_is_normalised_once(norm_position):
    """Whatever the position of norms, the head reads normalised tokens; with fresh norms they have unit variance."""
    rank = dense_rank(torch.randint(5, (2, 24)))
    out = decoder(norm_position=norm_position)(states(tokens=24), raster_layout(rank), GRID)
    assert out.shape == (2, 24, DECODER['embed_dims'])
    torch.testing.assert_close(out.mean(-1), torch.zeros(2, 24), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(-1, unbiased=False), torch.ones(2, 24), atol=1e-4, rtol=0)


BAD_OPTIONS = [
    (dict(num_layers=0), 'num_layers=0'),
    (dict(num_heads=3), 'embed_dims=20 .* num_heads=3'),
    (dict(embed_dims=18, num_heads=2), 'embed_dims=18 .* 4'),
    (dict(skip_init='first'), 'first'),
    (dict(memory_norm='both'), 'both'),
    (dict(norm_position='sandwich'), 'sandwich'),
]


@pytest.mark.parametrize(('kwargs', 'message'), BAD_OPTIONS, ids=str)
def test_options_that_are_not_possible(kwargs, message):
    with pytest.raises(ValueError, match=message):
        decoder(**kwargs)
