"""The counter of the other tests finds what would make a GPU's host wait, and nothing else."""

import pytest
import torch
from host_syncs import count_host_syncs


def x():
    return torch.tensor([1.0, 2.0, 3.0])


MASK = torch.tensor([True, False, True])

WAITS = {
    'item': lambda: x().sum().item(),
    'float': lambda: float(x()[0]),
    'if': lambda: 1 if x().sum() > 0 else 0,
    'comparison': lambda: max(x()[:2]),
    'tolist': lambda: x().tolist(),
    'cpu': lambda: x().cpu(),
    'nonzero': lambda: x().nonzero(),
    'where of one argument': lambda: torch.where(x() > 1),
    'masked_select': lambda: x().masked_select(MASK),
    'indexing by a mask': lambda: x()[MASK],
    'writing by a mask': lambda: x().__setitem__(MASK, torch.ones(2)),
    'indexing by a list': lambda: x()[[2, 0]],
    'indexing a column by a list': lambda: torch.ones(2, 3)[:, [2, 1, 0]],
    'unique': lambda: x().unique(),
    'equal': lambda: torch.equal(x(), x()),
    'repeat_interleave': lambda: x().repeat_interleave(torch.tensor([1, 2, 3])),
    'a new tensor on the device': lambda: torch.tensor([1, 2], device=x().device),
    'new_tensor': lambda: x().new_tensor([1, 2]),
    'number drawn on the device': lambda: torch.rand((), generator=torch.Generator('cpu')).item(),
    'in backward': lambda: Reading.apply(x().requires_grad_()).sum().backward(),
}
NO_WAIT = {
    'arithmetic': lambda: (x() * 2).softmax(0).sum(),
    'filling by a mask': lambda: x().masked_fill(MASK, 0.0),
    'one number written by a mask': lambda: x().__setitem__(MASK, 0.0),
    'slices and index tensors': lambda: x()[1:][torch.arange(2)],
    'flip instead of a list': lambda: torch.ones(2, 3).flip(1),
    'where of three arguments': lambda: torch.where(MASK, x(), 0),
    'known output size': lambda: x().repeat_interleave(torch.tensor([1, 2, 3]), output_size=6),
    'sorting': lambda: x().argsort().cumsum(0),
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
    assert counter.total == (name in WAITS), counter.where
    assert all(place.startswith('tests/engine/test_host_syncs.py:') for place in counter.where)


def test_counts_only_inside_and_adds_up():
    value = x().sum()
    value.item()
    with count_host_syncs('cpu') as counter:
        for _ in range(3):
            value.item()
    value.item()
    assert list(counter.where.values()) == [3]


@pytest.mark.gpu
@pytest.mark.parametrize('name', ['item', 'tolist', 'nonzero', 'indexing by a mask', 'indexing by a list', 'unique'])
def test_finds_on_a_gpu(name, monkeypatch):
    on_gpu = torch.tensor([1.0, 2.0, 3.0], device='cuda')
    monkeypatch.setitem(globals(), 'x', lambda: on_gpu)
    monkeypatch.setitem(globals(), 'MASK', on_gpu > 1)
    with count_host_syncs('cuda') as counter:
        WAITS[name]()
    assert counter.total >= 1
    with count_host_syncs('cuda') as counter:
        (on_gpu * 2).argsort().sum()
    assert counter.total == 0, counter.where
    assert torch.cuda.get_sync_debug_mode() == 0
