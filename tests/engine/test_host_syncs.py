"""The recorder of the other tests finds what would make a GPU's host wait, and nothing else."""

import pytest
import torch
from host_syncs import record_host_syncs

X = torch.tensor([1.0, 2.0, 3.0])
WAITS = {
    'item': lambda: X.sum().item(),
    'if': lambda: 1 if X.sum() > 0 else 0,
    'tolist': lambda: X.tolist(),
    'nonzero': lambda: X.nonzero(),
    'number drawn on the device': lambda: torch.rand((), generator=torch.Generator('cpu')).item(),
}
NO_WAIT = {
    'arithmetic': lambda: (X * 2).softmax(0).sum(),
    'number drawn from the global generator': lambda: int(torch.randint(2**62, ())),
}


@pytest.mark.parametrize('name', [*WAITS, *NO_WAIT])
def test_waits_are_found_and_nothing_else(name):
    with record_host_syncs('cpu') as waits:
        {**WAITS, **NO_WAIT}[name]()
    assert len(waits) == (name in WAITS), waits
