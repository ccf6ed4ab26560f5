"""Workers draw other numbers in every epoch, in every worker and on every rank, and the same ones when repeated."""

import random

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from torch.utils.data import Dataset

import randsac_mm.engine  # noqa: F401  registers seed_worker


class Draws(Dataset):
    """Draws from each generator."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])


def two_epochs(**options):
    torch.manual_seed(0)
    loader = {
        'dataset': Draws(),
        'sampler': {'type': 'DefaultSampler', 'shuffle': False},
        'batch_size': 2,
        'num_workers': 2,
        'collate_fn': {'type': 'default_collate'},
    }
    loader = Runner.build_dataloader({**loader, **options}, seed=0)
    return torch.stack([torch.cat(list(loader)) for _ in range(2)])


@pytest.mark.slow
def test_no_number_is_drawn_twice_except_with_the_same_state_and_rank(monkeypatch):
    ours = {'worker_init_fn': {'type': 'seed_worker'}}
    drawn = two_epochs(**ours)
    assert len(drawn.flatten().unique()) == drawn.numel()
    assert torch.equal(drawn, two_epochs(**ours))
    monkeypatch.setenv('RANK', '1')
    assert not torch.equal(drawn, two_epochs(**ours))
    assert torch.equal(*two_epochs()), "mmengine's default repeats the first epoch"
