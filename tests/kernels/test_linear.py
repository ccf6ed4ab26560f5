"""Contract: both kernels of linear layers are the same function, forward and backward, as in float64."""

import sys

import pytest
import torch
import torch.nn.functional as F
from builders import Operations
from torch import nn

from randsac_mm.kernels import linear
from randsac_mm.models.layers import apply_linear

pytestmark = pytest.mark.usefixtures('onednn')
BIG = (7, 61, 131, 257)  # images, tokens, inputs, outputs: enough products for the faster kernel


@pytest.fixture(params=[True])
def onednn(request, monkeypatch):
    """Whether the rule is as on an AMD processor with AVX-512, for products of any size but the smallest."""
    module = sys.modules['randsac_mm.kernels.linear']  # the package has a function of this name
    monkeypatch.setattr(module, 'ONEDNN', request.param)
    monkeypatch.setattr(module, '_MIN_PRODUCTS', 1 << 20)


def problem(sizes, dtype=torch.float32, bias=True):
    *rows, inputs, outputs = sizes
    x, weight = torch.randn(*rows, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype)
    tensors = [x, weight, *([torch.randn(outputs, dtype=dtype)] if bias else [])]
    return [t.requires_grad_() for t in tensors], torch.randn(*rows, outputs, dtype=dtype)


def run(tensors, grad, function=linear):
    y = function(*tensors)
    return [y, *torch.autograd.grad(y, tensors, grad)]


@pytest.mark.parametrize('onednn', [True, False], ids=['onednn', 'torch'], indirect=True)
@pytest.mark.parametrize('bias', [True, False], ids=['bias', 'no-bias'])
@pytest.mark.parametrize('sizes', [BIG, (409, 131, 257), (61, 257, 131), (67, 11, 503, 127), (5, 3, 7)], ids=str)
def test_against_float64(sizes, bias):
    tensors, grad = problem(sizes, bias=bias)
    exact = run([t.detach().double().requires_grad_() for t in tensors], grad.double(), F.linear)
    for ours, theirs in zip(run(tensors, grad), exact, strict=True):
        assert ours.shape == theirs.shape
        assert (ours.double() - theirs).abs().max() <= 2e-6 * sizes[-2] ** 0.5 * theirs.abs().max()


def test_the_faster_kernel_is_what_runs():
    tensors, grad = problem(BIG)
    with Operations() as operators:
        run(tensors, grad)
    assert operators.names.count('randsac_mm::linear') == 1
    assert operators.names.count('randsac_mm::matmul_transposed') == 2
    assert not {'aten::mm', 'aten::addmm'} & set(operators.names)


@pytest.mark.parametrize(
    ('sizes', 'dtype', 'autocast'),
    [((5, 3, 7), torch.float32, False), (BIG, torch.float64, False), (BIG, torch.float32, True)],
    ids=['small', 'float64', 'autocast'],
)
def test_everything_else_is_left_to_pytorch(sizes, dtype, autocast):
    (x, weight, bias), _ = problem(sizes, dtype)
    with Operations() as operators, torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
        y = linear(x, weight, bias)
    assert y.dtype == (torch.bfloat16 if autocast else dtype)
    assert 'randsac_mm::linear' not in operators.names


def test_only_the_gradients_that_are_asked_for():
    (x, weight, bias), grad = problem(BIG)
    y = linear(x.detach(), weight, bias.detach())
    with Operations() as operators:
        y.backward(grad)
    assert operators.names.count('randsac_mm::matmul_transposed') == 1
    assert weight.grad.is_contiguous()


def test_transposed_and_sliced_operands():
    """As those of the two-stream baseline's joint projection."""
    x, weight = torch.randn(61, 13, 131).transpose(0, 1), torch.randn(257, 131)[60:]
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=1e-4, atol=1e-4)


class Adapter(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_adapters_and_hooks_are_respected():
    x = torch.randn(7, 61, 131)
    layer, adapter, watched = nn.Linear(131, 257), Adapter(131, 257), nn.Linear(131, 257)
    seen = []
    watched.register_forward_hook(lambda *_: seen.append(1))
    with Operations() as operators:
        for module in (layer, adapter, watched):
            torch.testing.assert_close(apply_linear(module, x), module(x), rtol=1e-4, atol=1e-4)
    assert operators.names.count('randsac_mm::linear') == 1
    assert seen == [1, 1]
