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


OURS = {'worker_init_fn': {'type': 'seed_worker'}}


@pytest.fixture(scope='module')
def drawn():
    return two_epochs(**OURS)


def test_no_number_is_drawn_twice(drawn):
    assert len(drawn.flatten().unique()) == drawn.numel()
    first, second = two_epochs()
    assert torch.equal(first, second), "mmengine's default repeats the first epoch"


def test_repeats_with_the_state_of_the_main_process(drawn, monkeypatch):
    assert torch.equal(drawn, two_epochs(**OURS))
    monkeypatch.setenv('RANK', '1')
    assert not torch.equal(drawn, two_epochs(**OURS))
