"""bfloat16 forward passes on a CPU; everything else as in mmengine's wrapper."""

import copy
import platform
from pathlib import Path

import pytest
import torch
from engine.toy_engine import Wrapper
from mmengine.optim import OptimWrapper
from torch import nn

from randsac_mm.engine import AutocastOptimWrapper, optim


class Neck(nn.Linear):
    def forward(self, x):
        return {'maps': [(super().forward(x), x)], 'words': 'kept'}


class Detector(nn.Module):
    """The heads get float32, as mmcv's RoIAlign needs it."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(3, 4)
        self.neck = Neck(4, 4)
        self.heads = nn.ModuleDict({'box': nn.Linear(4, 1), 'mask': nn.Linear(4, 2)})

    def forward(self, x):
        features = self.backbone(x)
        nested = self.neck(features)
        assert nested['words'] == 'kept'
        return [features, nested['maps'][0][0], *(head(features) for head in self.heads.values())]


def detector(kind=AutocastOptimWrapper, **options):
    torch.manual_seed(0)
    model = Detector()
    return model, kind(optimizer=torch.optim.SGD(model.parameters(), lr=0.1), **options)


X = torch.linspace(-1, 1, 15).reshape(5, 3)


@pytest.mark.usefixtures('has_bfloat16')
def test_forward_is_bfloat16_and_weights_stay_float32():
    model, wrapper = detector()
    with wrapper.optim_context(model):
        outputs = model(X)
    assert {output.dtype for output in outputs} == {torch.bfloat16}
    wrapper.update_params(sum(output.float().square().mean() for output in outputs))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {output.dtype for output in model(X)} == {torch.float32}, 'autocast must end with the context'


@pytest.mark.parametrize('options', [{'accumulative_counts': 3}, {'clip_grad': {'max_norm': 0.01}}])
def test_accumulation_and_clipping_as_in_mmengine(options):
    weights = []
    for kind in (OptimWrapper, AutocastOptimWrapper):
        model, wrapper = detector(kind=kind, **copy.deepcopy(options))
        wrapper.initialize_count_status(model, 0, 4)
        weight, history = model.backbone.weight, []
        for step in range(4):
            with wrapper.optim_context(model):
                loss = (weight * (step + 1)).sum()  # no matrix product, so float32 in both
            wrapper.update_params(loss)
            history.append(weight.detach().clone())
        weights.append(torch.stack(history))
    assert torch.equal(*weights)
    assert torch.equal(*weights[0][:2]) == ('accumulative_counts' in options)


@pytest.mark.parametrize('modules', [None, ['backbone', 'neck']])
def test_where_bfloat16_is_emulated_a_step_has_the_bits_of_float32(monkeypatch, capsys, modules):
    monkeypatch.setattr(optim, 'has_bfloat16', lambda device: False)
    model, wrapper = detector(modules=modules)
    assert not optim.uses_mixed_precision(wrapper, X.device)
    for _ in range(2):
        with wrapper.optim_context(model):
            outputs = model(X)
        for output, exact in zip(outputs, model(X), strict=True):
            assert output.dtype == torch.float32
            assert torch.equal(output, exact)
    assert capsys.readouterr().out.count('float32') == 1, 'said once'


@pytest.mark.skipif(platform.machine() != 'x86_64' or platform.system() != 'Linux', reason='needs the flags of the CPU')
def test_cpus_with_avx512_compute_in_bfloat16():
    flags = set(Path('/proc/cpuinfo').read_text().split())
    assert optim.has_bfloat16(torch.device('cpu')) == ({'avx512bw', 'avx512vl', 'avx512dq'} <= flags)


@pytest.mark.parametrize(('generation', 'expected'), [(7, False), (8, True), (9, True)])
def test_gpus_since_ampere_compute_in_bfloat16(monkeypatch, generation, expected):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (generation, 0))
    assert optim.has_bfloat16(torch.device('cuda')) == expected


def test_the_type_that_products_are_computed_in(monkeypatch):
    for narrow in (True, False):
        monkeypatch.setattr(optim, 'has_bfloat16', lambda device, narrow=narrow: narrow)
        assert optim.uses_mixed_precision(detector()[1], X.device) == narrow
        assert not optim.uses_mixed_precision(detector(OptimWrapper)[1], X.device)


@pytest.mark.usefixtures('has_bfloat16')
def test_named_modules_compute_in_bfloat16_and_return_float32():
    model, wrapper = detector(modules=['backbone', 'neck', 'heads.mask'])
    exact = model(X)[0]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        expected = model.backbone(X).float()
    with wrapper.optim_context(Wrapper(model)):
        outputs = model(X)
    assert {output.dtype for output in outputs} == {torch.float32}
    assert torch.equal(outputs[0], expected)
    assert not torch.equal(outputs[0], exact)
    assert torch.equal(model(X)[0], exact), 'outside of a step everything is float32'


@pytest.mark.parametrize('own', [None, nn.Identity().forward], ids=['of the class', 'of the instance'])
def test_a_step_that_fails_leaves_the_modules_as_they_were(own):
    model, wrapper = detector(modules=['backbone'])
    if own:
        model.backbone.forward = own
    with pytest.raises(RuntimeError, match='in the middle'), wrapper.optim_context(model):
        raise RuntimeError('in the middle of a step')
    assert vars(model.backbone).get('forward') is own
    assert not torch.is_autocast_enabled('cpu')


def test_modules_must_be_a_list_of_names_that_exist():
    for modules in ('backbone', ()):
        with pytest.raises(ValueError, match='modules='):
            detector(modules=modules)
    model, wrapper = detector(modules=['tail'])
    with pytest.raises(AttributeError, match='tail'), wrapper.optim_context(model):
        pass
