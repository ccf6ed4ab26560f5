"""bfloat16 forward passes on a CPU; everything else as in mmengine's wrapper."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from randsac_mm.engine import AutocastOptimWrapper


def make(kind, lr=0.1, **options):
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    wrapper = kind(optimizer=torch.optim.SGD(layer.parameters(), lr=lr), **options)
    return layer, wrapper


def test_forward_is_bfloat16_and_weights_stay_float32():
    layer, wrapper = make(AutocastOptimWrapper)
    with wrapper.optim_context(layer):
        output = layer(torch.ones(4, 3))
    assert output.dtype == torch.bfloat16
    wrapper.update_params(output.float().square().mean())
    assert layer.weight.dtype == torch.float32
    assert layer(torch.ones(4, 3)).dtype == torch.float32, 'autocast must end with the context'


@pytest.mark.parametrize('options', [{'accumulative_counts': 3}, {'clip_grad': {'max_norm': 0.01}}])
def test_accumulation_and_clipping_as_in_mmengine(options):
    weights = []
    for kind in (OptimWrapper, AutocastOptimWrapper):
        layer, wrapper = make(kind, **{k: dict(v) if isinstance(v, dict) else v for k, v in options.items()})
        wrapper.initialize_count_status(layer, 0, 4)
        history = []
        for step in range(4):
            with wrapper.optim_context(layer):
                # Small integers are exact in bfloat16, sums of them with float weights are not needed.
                output = (layer.weight * (step + 1)).sum() + layer.bias.sum()
            wrapper.update_params(output)
            history.append(layer.weight.detach().clone())
        weights.append(torch.stack(history))
    assert torch.equal(*weights)
    first_steps = weights[0][:2]
    assert torch.equal(*first_steps) == ('accumulative_counts' in options)


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match="not in 'float16'; use AmpOptimWrapper for float16"):
        make(AutocastOptimWrapper, dtype='float16')


def test_registered_for_every_library():
    assert OPTIM_WRAPPERS.get('AutocastOptimWrapper') is AutocastOptimWrapper
