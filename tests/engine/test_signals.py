"""A signal ends a run after its step, with a checkpoint from which the run continues as if nothing had happened."""

import os
import signal
import time

import pytest
from engine.toy_engine import assert_same, last_checkpoint, toy_config, train, trained_state
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import FlexibleRunner, Runner
from processes import ROOT

from randsac_mm.engine import signals


@HOOKS.register_module()
class SendSignal(Hook):
    """Sends this process a signal in an iteration of the training or of the validation, counted from 0."""

    def __init__(self, number, iteration, validating=False, times=1):
        self.number, self.iteration, self.validating, self.times = number, iteration, validating, times

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if not self.validating and runner.iter == self.iteration:
            self._send()

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if self.validating and runner.iter == self.iteration:
            self._send()

    def _send(self):
        for _ in range(self.times):
            os.kill(os.getpid(), self.number)


def stopped(folder, number, iteration, kind=Runner, validating=False, times=1, accumulate=1, **options):
    config = toy_config(folder, **options)
    if kind is not Runner:
        config['strategy'] = {'type': 'SingleDeviceStrategy'}
    config['optim_wrapper']['accumulative_counts'] = accumulate
    config['default_hooks']['stop_on_signal'] = {'type': 'StopOnSignalHook'}
    config['custom_hooks'] = [
        dict(type='SendSignal', number=number, iteration=iteration, validating=validating, times=times)
    ]
    runner = kind(**config)
    with pytest.raises(SystemExit) as caught:
        runner.train()
    return runner, caught.value.code


RUNS = {
    'first step': (0, {'epochs': 3}),
    'within an epoch': (6, {'epochs': 3}),
    'last step of an epoch': (7, {'epochs': 3}),
    'last step of all': (11, {'epochs': 3}),
    'workers': (5, {'epochs': 3, 'workers': 2}),
    'flexible runner': (5, {'epochs': 3, 'kind': FlexibleRunner}),
    'validation': (8, {'epochs': 3, 'val': True, 'validating': True}),
    'iterations': (6, {'iters': 11, 'sampler': 'InfiniteSampler'}),
    'iterations, validation': (8, {'iters': 11, 'sampler': 'InfiniteSampler', 'val': True, 'validating': True}),
}


@pytest.mark.parametrize('name', RUNS)
def test_stopped_and_resumed_run_equals_uninterrupted_run(tmp_path, name):
    iteration, options = RUNS[name]
    whole = {key: value for key, value in options.items() if key != 'validating'}
    expected = trained_state(train(tmp_path / 'whole', **whole))
    runner, status = stopped(tmp_path / 'parts', signal.SIGTERM, iteration, **options)
    assert status == 143
    assert runner.iter == iteration
    assert last_checkpoint(tmp_path / 'parts').name == 'interrupted.pth'
    resumed = train(tmp_path / 'parts', resume=last_checkpoint(tmp_path / 'parts'), **whole)
    assert_same(trained_state(resumed), expected)
    assert not (tmp_path / 'parts/interrupted.pth').exists(), 'the next checkpoint replaces it'


@pytest.mark.parametrize(('number', 'status'), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 0)])
def test_exit_status_and_handlers(tmp_path, number, status):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    assert stopped(tmp_path, number, 2, epochs=2)[1] == status
    after = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    assert after == before
    train(tmp_path / 'next', epochs=1)  # nothing is left of the signal


def test_the_log_names_the_command_that_continues(tmp_path, run_tool):
    config = toy_config(tmp_path / 'run', epochs=2)
    config['default_hooks']['stop_on_signal'] = {'type': 'StopOnSignalHook'}
    config['custom_hooks'] = [dict(type='SendSignal', number=signal.SIGINT, iteration=2)]
    Config(config).dump(tmp_path / 'toy.py')
    with pytest.raises(SystemExit) as caught:
        run_tool('train.py', tmp_path / 'toy.py', '--no-check')
    assert caught.value.code == 130
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert log.rstrip().endswith(f'To continue: python {ROOT}/tools/train.py {tmp_path}/toy.py --no-check --resume')


def test_a_signal_twice_within_a_second_is_one(tmp_path):
    assert stopped(tmp_path, signal.SIGTERM, 2, times=2, epochs=2)[1] == 143


def test_a_second_signal_ends_at_once(tmp_path, monkeypatch):
    killed = []
    signals.install_handlers()
    try:
        handler = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(signals.os, 'kill', lambda *args: killed.append(args))
        handler(signal.SIGTERM, None)
        later = time.monotonic() + 2
        monkeypatch.setattr(signals.time, 'monotonic', lambda: later)
        assert not killed
        handler(signal.SIGTERM, None)
        assert killed == [(os.getpid(), signal.SIGTERM)]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signals.restore_handlers()


@pytest.mark.filterwarnings('ignore:Detected call of')  # mmengine's, of runs that accumulate gradients
def test_accumulated_gradients_are_not_lost(tmp_path):
    runner, _ = stopped(tmp_path, signal.SIGTERM, 3, accumulate=3, epochs=3)
    assert runner.iter == 5, 'the step that updates the weights, counted from 0'
