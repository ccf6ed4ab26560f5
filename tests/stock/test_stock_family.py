"""The stock OpenMMLab releases run the same pre-training config, and resume it bit for bit.

Builds an environment of minutes and gigabytes (kept in ``~/.cache/randsac_mm/stock``), so it runs only when asked for::

    bash tools/run_tests.sh --stock tests/stock
"""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.stock, pytest.mark.timeout(1800)]

EPOCHS = 4

STOP_HOOK = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class StopHard(Hook):
    priority = 'LOWEST'

    def after_train_iter(self, runner, **kwargs):
        if runner.iter + 1 == {stop_at}:
            os.kill(os.getpid(), signal.SIGKILL)
"""

CONFIG = """
_base_ = {base!r}
train_cfg = dict(max_epochs={epochs})
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max={epochs}, by_epoch=True, begin=0, end={epochs}, convert_to_iter_based=True),
]
"""

STOPPED = """
_base_ = './whole.py'
custom_imports = dict(imports=['randsac_mm', 'stop_hard'], allow_failed_imports=False)
custom_hooks = [dict(type='StopHard')]
"""


@pytest.fixture(scope='module')
def stock_python(root: Path) -> Path:
    """The interpreter of an environment with the stock family and this project, installed as users do."""
    cache = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache'))
    env = cache / 'randsac_mm' / 'stock'
    made = subprocess.run(
        ['bash', '-euo', 'pipefail', '-c', f'. "{root}/tools/_env.sh"; make_env "{env}" stock'],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    python = env / 'bin' / 'python'

    before = installed(python)
    before.pop('randsac-mm', None)  # of an earlier run
    done = subprocess.run([python, '-m', 'pip', 'install', '-e', root], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    after = installed(python)
    assert after.pop('randsac-mm', None), 'not installed'
    assert after == before, 'installing this project added or replaced something'
    return python


def installed(python: Path) -> dict[str, str]:
    """Versions of all distributions by name."""
    listed = subprocess.run([python, '-m', 'pip', 'list', '--format=json'], capture_output=True, text=True, check=True)
    return {item['name'].lower().replace('_', '-'): item['version'] for item in json.loads(listed.stdout)}


def train(python: Path, root: Path, config: Path, work_dir: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [python, root / 'tools' / 'train.py', config, '--work-dir', work_dir, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=config.parent,
        env={**os.environ, 'PYTHONPATH': str(config.parent), 'OMP_NUM_THREADS': '1'},
    )


def checkpoint(work_dir: Path, epoch: int) -> dict:
    return torch.load(work_dir / f'epoch_{epoch}.pth', map_location='cpu', weights_only=True)


def test_family_is_stock(stock_python: Path):
    found = {name: version for name, version in installed(stock_python).items() if 'mm' in name}
    assert found.items() >= {'mmengine': '0.10.7', 'mmcv-lite': '2.1.0', 'mmpretrain': '1.2.0'}.items()
    assert not any(name.startswith('onedl') for name in found)


def test_interrupted_and_resumed_run_equals_the_whole_one(stock_python: Path, root: Path, tmp_path: Path):
    base = str(root / 'configs' / 'smoke' / 'randsac_vit_digits.py')
    whole, stopped = tmp_path / 'whole.py', tmp_path / 'stopped.py'
    whole.write_text(CONFIG.format(base=base, epochs=EPOCHS))
    stopped.write_text(STOPPED)

    done = train(stock_python, root, whole, tmp_path / 'a')
    assert done.returncode == 0, done.stderr
    expected = checkpoint(tmp_path / 'a', EPOCHS)
    steps = expected['meta']['iter'] // EPOCHS
    assert steps >= 3, 'too few steps to stop in the middle of an epoch'

    (tmp_path / 'stop_hard.py').write_text(STOP_HOOK.format(stop_at=2 * steps + 2))  # in the third epoch
    done = train(stock_python, root, stopped, tmp_path / 'b')
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / 'b' / 'epoch_2.pth').is_file()
    assert not (tmp_path / 'b' / 'epoch_3.pth').exists()

    done = train(stock_python, root, whole, tmp_path / 'b', '--resume')
    assert done.returncode == 0, done.stderr
    resumed = checkpoint(tmp_path / 'b', EPOCHS)

    halfway = checkpoint(tmp_path / 'b', EPOCHS - 1)['state_dict']
    assert expected['state_dict'].keys() == resumed['state_dict'].keys()
    for name, value in expected['state_dict'].items():
        assert torch.equal(value, resumed['state_dict'][name]), name
    # The last epoch changed weights; otherwise equal ones would prove nothing.
    assert any(not torch.equal(value, halfway[name]) for name, value in expected['state_dict'].items())
