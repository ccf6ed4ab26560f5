"""Options and fixtures of the whole suite: seeds, threads, shared data, and what runs only when asked for."""

import os
import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

ROOT = Path(__file__).resolve().parents[1]

# Without a GPU our Triton kernels run in its interpreter, which must be known before anything imports Triton.
if not torch.cuda.is_available():
    os.environ.setdefault('TRITON_INTERPRET', '1')

# Timing varies too much on a shared machine for deadlines; CI must not fail on an example that nobody else sees.
hypothesis.settings.register_profile('local', deadline=None)
hypothesis.settings.register_profile('ci', deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile('ci' if os.environ.get('CI') else 'local')


torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', '2')))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--stock', action='store_true', help='also run the test with the stock OpenMMLab family (minutes)')


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        no_gpu = pytest.mark.skip(reason='needs a CUDA device')
        for item in items:
            if 'gpu' in item.keywords:
                item.add_marker(no_gpu)
    if not config.getoption('--stock'):
        deselected = [item for item in items if item.get_closest_marker('stock')]
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Start every test from the same random state, whichever ran before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_default_scope() -> None:
    """Forget the default scope that a runner of an earlier test has set: it decides where registries look for names."""
    DefaultScope._instance_dict.clear()


@pytest.fixture(scope='session')
def root() -> Path:
    """The folder of the clone."""
    return ROOT


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """The folder of real images that is no part of the repository: ``RANDSAC_SHARED`` or ``../shared/data``."""
    folder = Path(os.environ.get('RANDSAC_SHARED', ROOT.parent / 'shared')) / 'data'
    if not folder.is_dir():
        pytest.skip(f'no shared data at {folder}; name its parent by RANDSAC_SHARED')
    return folder
