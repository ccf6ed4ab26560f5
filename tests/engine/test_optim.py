"""bfloat16 forward passes on a CPU; everything else as in mmengine's wrapper."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS, OPTIM_WRAPPERS
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


class Detector(nn.Module):
    """The middle part knows no bfloat16, as mmcv's RoIAlign."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(3, 4)
        self.heads = nn.ModuleDict({'box': nn.Linear(4, 1), 'mask': nn.Linear(4, 2)})
        self.seen = {}

    def forward(self, x, fail=False):
        features = self.backbone(x)
        if fail:
            raise RuntimeError('in the middle of a step')
        out = {name: head(features) for name, head in self.heads.items()}
        self.seen = {'features': features.dtype, **{name: value.dtype for name, value in out.items()}}
        return out


def detector(modules):
    torch.manual_seed(0)
    model = Detector()
    wrapper = AutocastOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1), modules=modules)
    return model, wrapper


def test_named_modules_compute_in_bfloat16_and_hand_on_float32():
    model, wrapper = detector(['backbone', 'heads.mask'])
    x = torch.randn(5, 3)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        expected = model.backbone(x).float()
    exact = model.backbone(x)
    inside = []
    model.backbone.register_forward_hook(lambda module, args, output: inside.append(output))
    with wrapper.optim_context(model):
        model(x)
    assert set(model.seen.values()) == {torch.float32}
    assert torch.equal(inside[0], expected)
    assert not torch.equal(inside[0], exact)
    model(x)
    assert torch.equal(inside[1], exact), 'outside of a step everything is float32'


def test_a_step_that_fails_leaves_the_modules_as_they_were():
    model, wrapper = detector(['backbone'])
    with pytest.raises(RuntimeError, match='in the middle'), wrapper.optim_context(model):
        model(torch.ones(1, 3), fail=True)
    assert 'forward' not in vars(model.backbone)
    assert not torch.is_autocast_enabled('cpu')


def test_the_forward_of_an_instance_comes_back():
    model, wrapper = detector(['backbone'])
    model.backbone.forward = own = torch.nn.Identity().forward
    with wrapper.optim_context(model):
        assert model.backbone.forward is not own
    assert model.backbone.forward is own


def test_nested_outputs_become_float32():
    class Nested(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return [(y, x), {'y': y, 'words': 'kept'}]

    model, wrapper = detector(['backbone'])
    model.backbone = Nested(3, 4)
    with wrapper.optim_context(model):
        (y, x), named = model.backbone(torch.ones(1, 3))
    assert y.dtype == x.dtype == named['y'].dtype == torch.float32
    assert named['words'] == 'kept'


def test_names_are_looked_up_inside_a_wrapped_model():
    @MODEL_WRAPPERS.register_module(name='WrapperForAutocastTest', force=True)
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    model, wrapper = detector(['backbone'])
    with wrapper.optim_context(Wrapper(model)):
        assert 'forward' in vars(model.backbone)
    assert 'forward' not in vars(model.backbone)


@pytest.mark.parametrize('modules', ['backbone', ()])
def test_modules_must_be_a_list(modules):
    with pytest.raises(ValueError, match='must list names'):
        detector(modules)


def test_unknown_module_is_named_with_those_there_are():
    model, wrapper = detector(['neck'])
    with (
        pytest.raises(ValueError, match="names 'neck', but the model has backbone, heads"),
        wrapper.optim_context(model),
    ):
        pass
