"""The recorder of the other tests finds what would make a GPU's host wait, and nothing else."""

import pytest
import torch
from host_syncs import record_host_syncs


class Reading(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value * 1

    @staticmethod
    def backward(ctx, gradient):
        gradient.sum().item()
        return gradient


X = torch.tensor([1.0, 2.0, 3.0])
MASK = torch.tensor([True, False, True])
WAITS = {
    'item': lambda: X.sum().item(),
    'if': lambda: 1 if X.sum() > 0 else 0,
    'tolist': lambda: X.tolist(),
    'nonzero': lambda: X.nonzero(),
    'indexing by a mask': lambda: X[MASK],
    'indexing by a list': lambda: X[[2, 0]],
    'unique': lambda: X.unique(),
    'repeat_interleave': lambda: X.repeat_interleave(torch.tensor([1, 2, 3])),
    'a new tensor on the device': lambda: torch.tensor([1, 2], device=X.device),
    'number drawn on the device': lambda: torch.rand((), generator=torch.Generator('cpu')).item(),
    'in backward': lambda: Reading.apply(X.clone().requires_grad_()).sum().backward(),
}
NO_WAIT = {
    'arithmetic': lambda: (X * 2).softmax(0).sum(),
    'one number written by a mask': lambda: X.clone().__setitem__(MASK, 0.0),
    'known output size': lambda: X.repeat_interleave(torch.tensor([1, 2, 3]), output_size=6),
    'number drawn from the global generator': lambda: int(torch.randint(2**62, ())),
}


@pytest.mark.parametrize('name', [*WAITS, *NO_WAIT])
def test_waits_are_found_and_nothing_else(name):
    with record_host_syncs('cpu') as waits:
        {**WAITS, **NO_WAIT}[name]()
    assert len(waits) == (name in WAITS), waits
    assert all('test_host_syncs.py:' in place for place in waits)
