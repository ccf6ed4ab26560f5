"""The counter of the other tests finds what would make a GPU's host wait, and nothing else."""

import pytest
import torch
from host_syncs import count_host_syncs
from torch import Tensor


def x():
    return torch.tensor([1.0, 2.0, 3.0])


MASK = torch.tensor([True, False, True])

WAITS = {
    'item': lambda: x().sum().item(),
    'float': lambda: float(x()[0]),
    'if': lambda: 1 if x().sum() > 0 else 0,
    'tolist': lambda: x().tolist(),
    'nonzero': lambda: x().nonzero(),
    'indexing by a mask': lambda: x()[MASK],
    'indexing by a list': lambda: x()[[2, 0]],
    'unique': lambda: x().unique(),
    'repeat_interleave': lambda: x().repeat_interleave(torch.tensor([1, 2, 3])),
    'a new tensor on the device': lambda: torch.tensor([1, 2], device=x().device),
    'number drawn on the device': lambda: torch.rand((), generator=torch.Generator('cpu')).item(),
    'in backward': lambda: Reading.apply(x().requires_grad_()).sum().backward(),
}
NO_WAIT = {
    'arithmetic': lambda: (x() * 2).softmax(0).sum(),
    'one number written by a mask': lambda: x().__setitem__(MASK, 0.0),
    'known output size': lambda: x().repeat_interleave(torch.tensor([1, 2, 3]), output_size=6),
    'number drawn from the global generator': lambda: int(torch.randint(2**62, ())),
    'backward': lambda: x().requires_grad_().square().sum().backward(),
}


class Reading(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value * 1

    @staticmethod
    def backward(ctx, gradient):
        gradient.sum().item()
        return gradient


@pytest.mark.parametrize('name', [*WAITS, *NO_WAIT])
def test_waits_are_found_and_nothing_else(name):
    with count_host_syncs('cpu') as counter:
        {**WAITS, **NO_WAIT}[name]()
    assert counter.total() == (name in WAITS), counter
    assert all(place.startswith('tests/engine/test_host_syncs.py:') for place in counter)


@pytest.mark.gpu
def test_finds_on_a_gpu():
    on_gpu = torch.tensor([1.0, 2.0, 3.0], device='cuda')
    with count_host_syncs('cuda') as counter:
        (on_gpu * 2).argsort().sum()
    assert counter.total() == 0, counter
    for wait in (Tensor.item, Tensor.tolist, Tensor.nonzero, Tensor.unique, lambda tensor: tensor[tensor > 1]):
        with count_host_syncs('cuda') as counter:
            wait(on_gpu.sum() if wait is Tensor.item else on_gpu)
        assert counter.total() >= 1
    assert torch.cuda.get_sync_debug_mode() == 0
