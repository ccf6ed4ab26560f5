"""Full and read-only disks, weights that are not finite, and a second run in a folder: what is said, and what remains.

``python -m pytest tests/reliability/test_disk.py`` (a minute). Disks are real: tmpfs of a megabyte, which only root can
mount; elsewhere a disk is simulated by a writer that fails.
"""

import contextlib
import errno
import os
import shutil
import subprocess

import pytest
import torch
from engine.toy_engine import ToyModel, assert_same, log_entries, toy_config, train, trained_state
from mmengine.config import Config
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner

from randsac_mm.engine.work_dir import claim_work_dir


def mount(folder, *options):
    return subprocess.run(['mount', *options, str(folder)], capture_output=True, check=False).returncode == 0


class Disk:
    """A disk of one megabyte that can be filled and freed."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.full = folder, False
        self.is_real = mount(folder, '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs')
        if not self.is_real:
            monkeypatch.setattr(LocalBackend, 'put', self._put(LocalBackend.put))

    def _put(self, put):
        def attempt(backend, data, path):
            put(backend, bytes(data)[: len(data) // 2] if self.full else data, path)
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return attempt

    def fill(self, rest=4096):
        self.full = True
        if self.is_real:
            (self.folder / 'ballast').write_bytes(bytes(shutil.disk_usage(self.folder).free - rest))

    def free(self):
        self.full = False
        (self.folder / 'ballast').unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path, monkeypatch):
    folder = tmp_path / 'disk'
    folder.mkdir()
    yield (disk := Disk(folder, monkeypatch))
    if disk.is_real:
        subprocess.run(['umount', '-l', str(folder)], check=True)


@HOOKS.register_module()
class Between(Hook):
    """Calls functions before epochs, counted from 0."""

    def __init__(self, actions):
        self.actions = actions

    def before_train_epoch(self, runner):
        self.actions.get(runner.epoch, lambda runner: None)(runner)


def run(folder, actions=None, model='ToyModel', **options):
    """Train six epochs and return the runner, the error at the end, and the log."""
    config = toy_config(folder, epochs=6, max_keep_ckpts=2, **options)
    config['model'] = {'type': model}
    config['default_hooks']['logger'] = {'type': 'LoggerHook', 'interval': 1}
    runner = Runner(**config)
    runner.register_hook(Between(actions or {}))
    lines = []
    runner.logger.error = lines.append
    error = None
    try:
        runner.train()
    except Exception as caught:
        error = caught
    return runner, error, lines


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth*'))


def test_a_full_disk_delays_checkpoints_and_harms_nothing(disk, tmp_path):
    def fill(runner):
        disk.fill()

    def look(runner):
        assert names(disk.folder / 'run') == ['epoch_1.pth', 'epoch_2.pth'], 'none deleted, none begun'
        for path in (disk.folder / 'run').glob('*.pth'):
            torch.load(path, weights_only=True)

    def free(runner):
        look(runner)
        disk.free()

    runner, error, lines = run(disk.folder / 'run', {2: fill, 3: look, 4: free})
    assert error is None
    assert names(disk.folder / 'run') == ['epoch_5.pth', 'epoch_6.pth']
    said = [line for line in lines if 'epoch_' in line]
    assert [f'run/epoch_{n}.pth cannot be written' in line for n, line in zip((3, 4), said, strict=True)] == [
        True,
        True,
    ]
    assert all('No space left' in line and 'bytes are needed' in line and 'are free' in line for line in said)
    assert len(log_entries(runner)) >= 16
    assert_same(trained_state(runner), trained_state(run(tmp_path / 'whole')[0]))


def test_a_disk_that_stays_full_ends_the_training_with_an_error(disk):
    runner, error, _ = run(disk.folder / 'run', {2: lambda runner: disk.fill()})
    assert runner.iter == 24
    assert isinstance(error, OSError)
    assert 'epoch_6.pth' in str(error)
    assert names(disk.folder / 'run') == ['epoch_1.pth', 'epoch_2.pth']
    assert (disk.folder / 'run' / 'last_checkpoint').read_text().endswith('epoch_2.pth')
    disk.free()
    expected = trained_state(runner)
    resumed = train(disk.folder / 'run', epochs=6, resume=disk.folder / 'run' / 'epoch_2.pth', max_keep_ckpts=2)
    assert_same(trained_state(resumed), expected)


def test_a_better_model_that_cannot_be_written_replaces_none(disk):
    # Scores 0.5, 0.7, 0.6, 0.9: the disk is full from the second to the third epoch.
    with contextlib.suppress(StopIteration):  # the scores end
        run(disk.folder / 'run', {1: lambda r: disk.fill(), 3: lambda r: disk.free()}, val=True, save_best='acc')
    content = torch.load(disk.folder / 'run' / 'epoch_4.pth', weights_only=True)
    assert [path.name for path in disk.folder.glob('run/best*')] == ['best_acc_epoch_4.pth']
    assert content['message_hub']['runtime_info']['best_score'] == 0.9


@MODELS.register_module()
class Large(ToyModel):
    def __init__(self):
        super().__init__()
        self.more = torch.nn.Parameter(torch.zeros(30_000))  # 120,000 bytes, in a checkpoint three times that


def test_space_is_checked_before_the_first_step(disk, monkeypatch):
    if not disk.is_real:
        monkeypatch.setattr('shutil.disk_usage', lambda path: shutil._ntuple_diskusage(2**20, 0, 2**20))
    runner, error, _ = run(disk.folder / 'run', model='Large')
    assert runner.iter == 0
    text = str(error)
    assert isinstance(error, OSError)
    assert f'{disk.folder}/run: 1,080,' in text
    assert all(part in text for part in ('bytes are needed', 'are free for 3 checkpoints', 'max_keep_ckpts'))


def test_a_folder_that_cannot_be_written_to(disk, monkeypatch):
    if disk.is_real:
        assert mount(disk.folder, '-o', 'remount,ro')
    else:
        monkeypatch.setattr('tempfile.TemporaryFile', lambda dir: os.listdir('/proc/nothing'))
    with pytest.raises(OSError, match=rf'{disk.folder}\S* cannot be written to'), claim_work_dir(disk.folder / 'run'):
        pass


@pytest.mark.parametrize('where', ['weights', 'optimizer'])
@pytest.mark.parametrize('value', [float('nan'), float('-inf')])
def test_what_is_not_finite_is_never_saved_and_displaces_nothing(tmp_path, where, value):
    def spoil(runner):
        state = runner.optim_wrapper.optimizer.state[runner.model.layer.bias]
        tensor = runner.model.layer.bias.data if where == 'weights' else state['exp_avg_sq']
        tensor[1] = value

    runner, error, lines = run(tmp_path, {2: spoil})
    assert runner.iter == 24
    assert isinstance(error, OSError)
    assert 'epoch_6.pth is not saved: weights or optimiser state are NaN' in str(error)
    assert names(tmp_path) == ['epoch_1.pth', 'epoch_2.pth']
    assert (tmp_path / 'last_checkpoint').read_text().endswith('epoch_2.pth')
    assert len(lines) == 4


def test_a_second_run_is_refused_in_one_line_before_anything_is_built(tmp_path, run_tool, monkeypatch, capsys):
    config = tmp_path / 'toy.py'
    Config(toy_config(tmp_path / 'run', epochs=1)).dump(config)
    with claim_work_dir(tmp_path / 'run'):
        before = sorted((tmp_path / 'run').iterdir())
        with pytest.raises(SystemExit) as end:
            run_tool('train.py', config, '--no-check')
        assert sorted((tmp_path / 'run').iterdir()) == before
    text = str(end.value)
    assert f'error: {tmp_path}/run: another run is writing there, process {os.getpid()} on ' in text
    assert text.count('\n') == 0
    run_tool('train.py', config, '--no-check')
    assert names(tmp_path / 'run') == ['epoch_1.pth']
