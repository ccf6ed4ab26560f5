"""Options and fixtures of the whole suite: seeds, threads, shared data, and what runs only when asked for."""

import os
import random
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import matplotlib
import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

ROOT = Path(__file__).resolve().parents[1]
# Helpers that tests import; collected for doctests they would be imported, and their types registered, twice.
collect_ignore = ['engine/toy_engine.py', 'transfer/three_models.py']

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


def pytest_configure(config: pytest.Config) -> None:
    """Ignore warnings of mmseg about its defaults, of pycocotools about new numpy, of Swin about new torch."""
    for message in (
        'Default ``avg_non_ignore`` is False:UserWarning:mmseg',
        'The draw is False:UserWarning:mmseg',
        'For binary segmentation, we suggest:UserWarning:mmseg',
        '__array__ implementation does.*copy keyword:DeprecationWarning',
        'torch.meshgrid',
    ):
        config.addinivalue_line('filterwarnings', f'ignore:{message}')


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


@pytest.fixture(scope='session', autouse=True)
def no_pause() -> Iterator[None]:
    """Do not wait 2 s between passes through the data, as mmengine's endless loop does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.runner.loops.time', SimpleNamespace(sleep=lambda seconds: None))
        yield


@pytest.fixture(scope='session', autouse=True)
def no_memory(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[None]:
    """Remember nothing of an earlier run of the tests, nor in the user's own folder."""
    with pytest.MonkeyPatch.context() as patch:
        if pytestconfig.getoption('--stock'):  # whose packages are kept there
            yield
            return
        patch.setenv('MPLCONFIGDIR', matplotlib.get_cachedir())
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture(autouse=True)
def no_default_scope() -> None:
    """Forget the default scope and the logger that a runner of an earlier test has set."""
    DefaultScope._instance_dict.clear()
    for handler in [handler for logger in MMLogger._instance_dict.values() for handler in logger.handlers]:
        handler.close()
    MMLogger._instance_dict.clear()


@pytest.fixture(scope='session')
def root() -> Path:
    """The folder of the clone."""
    return ROOT


@pytest.fixture
def has_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `AutocastOptimWrapper` compute in bfloat16, even on a CPU that emulates it."""
    monkeypatch.setattr('randsac_mm.engine.optim.has_bfloat16', lambda device: True)


@pytest.fixture
def run_tool(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a script of tools/ with a command line, in this process."""

    def run(script: str, *args: object) -> None:
        monkeypatch.setattr('sys.argv', [script, *map(str, args)])
        monkeypatch.setenv('LOCAL_RANK', '0')  # which some scripts would set for good
        runpy.run_path(str(root / 'tools' / script), run_name='__main__')

    return run


@pytest.fixture(scope='session')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight and four generated pictures in the formats of ADE20K and COCO."""
    from tools.make_shapes import make_shapes

    return make_shapes(tmp_path_factory.mktemp('data') / 'shapes', size=(64, 80))


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """The folder of real images that is no part of the repository: ``RANDSAC_SHARED`` or ``../shared/data``."""
    folder = Path(os.environ.get('RANDSAC_SHARED', ROOT.parent / 'shared')) / 'data'
    if not folder.is_dir():
        pytest.skip(f'no shared data at {folder}; name its parent by RANDSAC_SHARED')
    return folder
