"""Losses that are fetched late give the logs of mmengine's own hook, and a steady step waits for nothing."""

import copy
import math
import pickle

import pytest
import torch
from engine.toy_engine import Interrupted, ToyModel, last_checkpoint, log_entries, toy_config
from host_syncs import record_host_syncs
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, OPTIM_WRAPPERS
from mmengine.runner import Runner

from randsac_mm.engine import deferred_log
from randsac_mm.engine.deferred_log import DeferredHistory

OURS = 'DeferredRuntimeInfoHook'


@MODELS.register_module()
class ManyLosses(ToyModel):
    """Losses of several types from one buffer, which the next step overwrites, as CUDA graphs do."""

    def __init__(self, bad=None):
        super().__init__()
        self.bad = bad or {}
        self.static = torch.zeros(())
        self.calls = 0

    def parse_losses(self, losses):
        loss, log = super().parse_losses(losses)
        self.calls += 1
        log['loss'] = self.static.copy_(loss.detach() * self.bad.get(self.calls, 1))
        log['half'] = loss.detach().bfloat16()[None]
        log['seen'] = torch.tensor(2**40 + self.calls)
        log['good'] = torch.tensor(self.calls % 3 == 0)
        log['plain'] = 0.5 * self.calls
        return loss, log


@OPTIM_WRAPPERS.register_module()
class ScaledWrapper(OptimWrapper):
    """Stands for float16, whose loss scaling expects infinite losses."""

    loss_scaler = None


def run(folder, hook=OURS, *, bad=None, wrapper=None, log=None, hooks=(), resume=None, interval=3, **options):
    config = toy_config(folder, **options)
    config['model'] = {'type': 'ManyLosses', 'bad': bad}
    config['optim_wrapper'].update(wrapper or {})
    config['default_hooks'].update(runtime_info={'type': hook}, logger={'type': 'LoggerHook', 'interval': interval})
    config['log_processor'] = {'by_epoch': options.get('epochs') is not None, **(log or {})}
    config['custom_hooks'] = list(hooks)
    if 'accumulative_counts' in (wrapper or {}):  # mmengine's schedulers warn in a step without update
        config['param_scheduler'] = None
    if resume:
        config.update(resume=True, load_from=str(resume))
    runner = Runner(**config)
    runner.train()
    return runner


def lines(runner):
    """Read the JSON log, without what is measured."""
    measured = ('time', 'data_time', 'memory')
    return [[item for item in entry.items() if item[0] not in measured] for entry in log_entries(runner)]


def histories(runner):
    scalars = runner.message_hub.state_dict()['log_scalars']
    return {k: [part.tolist() for part in v.data] for k, v in scalars.items() if 'time' not in k}


WINDOWS = {'window_size': 4, 'custom_cfg': [{'data_src': 'loss', 'log_name': 'worst', 'method_name': 'max'}]}
NORM, VALUE = {'clip_grad': {'max_norm': 0.1}}, {'clip_grad': {'type': 'value', 'clip_value': 0.1}}


@pytest.mark.parametrize(
    ('wrapper', 'options'),
    [
        (NORM, {'epochs': 2, 'val': True, 'log': WINDOWS}),
        ({**NORM, 'accumulative_counts': 2}, {'iters': 9, 'val': True}),
        (VALUE, {'iters': 7}),
    ],
)
def test_logs_equal_those_of_mmengines_hook(tmp_path, wrapper, options):
    def result(hook):
        runner = run(tmp_path / hook, hook, wrapper=copy.deepcopy(wrapper), **options)
        return lines(runner), histories(runner)

    (expected, history), (logged, deferred) = result('RuntimeInfoHook'), result(OURS)
    assert len(expected) > 1
    assert logged == expected, 'same keys in the same order, same values'
    assert deferred == history
    assert ('train/grad_norm' in history) == ('max_norm' in wrapper['clip_grad'])
    assert len(set(history['train/loss'][0])) > 4, 'the steps differ, so that a late read would be noticed'


def test_histories_survive_a_checkpoint(tmp_path):
    whole = run(tmp_path / 'whole', epochs=2)
    with pytest.raises(Interrupted):
        run(tmp_path / 'part', epochs=2, hooks=[{'type': 'Interrupt', 'iteration': 6}])
    resumed = run(tmp_path / 'part', epochs=2, resume=last_checkpoint(tmp_path / 'part'))
    assert histories(resumed)['train/loss'] == histories(whole)['train/loss']
    assert len(histories(whole)['train/loss'][0]) == 8


def test_pending_values_are_moved_together_before_a_look_and_before_they_become_too_many(monkeypatch):
    monkeypatch.setattr(deferred_log, '_MAX_PENDING', 4)
    history = DeferredHistory(HistoryBuffer())
    with record_host_syncs('cpu') as waits:
        for iteration in range(1, 6):
            history.add(torch.tensor(float(iteration)), iteration)
            assert len(waits) == (iteration >= 4)
    for copied in (copy.copy(history), copy.deepcopy(history), pickle.loads(pickle.dumps(history))):
        assert type(copied) is HistoryBuffer
        assert [part.tolist() for part in copied.data] == [[1, 2, 3, 4, 5], [1] * 5]
    history.add(torch.tensor(6.0), 6)
    history.update(7)
    assert history.data[0].tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_a_loss_that_is_not_finite_stops_the_run_before_the_next_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError, match='train/loss is nan in iteration 6'):
        run(tmp_path / 'epochs', epochs=2, bad={6: math.nan})
    assert [path.name for path in tmp_path.glob('epochs/*.pth')] == ['epoch_1.pth']
    with pytest.raises(FloatingPointError, match='train/loss is inf in iteration 6'):
        run(tmp_path / 'iters', iters=9, bad={6: math.inf}, interval=100, max_keep_ckpts=2)
    names = sorted(path.name for path in tmp_path.glob('iters/*.pth'))
    assert names == ['iter_4.pth', 'iter_5.pth'], 'the checkpoint itself looks'


def test_with_loss_scaling_the_run_continues(tmp_path):
    runner = run(tmp_path, epochs=2, bad={2: math.inf}, wrapper={'type': 'ScaledWrapper'})
    assert runner.iter == 8


class Waits(Hook):
    """Counts the waits in each iteration, from the batch to the end of the last hook."""

    priority = 'LOWEST'

    def __init__(self, places):
        self.places = places
        self.per_step = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.places.clear()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.per_step.append(len(self.places))


@pytest.mark.slow
@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
def test_a_steady_step_of_randsac_waits_for_nothing(root, tmp_path, device):
    steps = {}
    for hook in (OURS, 'RuntimeInfoHook'):
        cfg = Config.fromfile(root / 'configs/smoke/randsac_vit_digits.py')
        cfg.work_dir, cfg.experiment_name = str(tmp_path / hook), f'waits_{hook}_{device}'
        cfg.default_hooks.update(runtime_info={'type': hook}, checkpoint=None)
        cfg.default_hooks.logger.interval = 4
        cfg.optim_wrapper.clip_grad = {'max_norm': 1.0}
        cfg.train_dataloader.batch_size = 8
        cfg.train_cfg = {'by_epoch': False, 'max_iters': 7}
        cfg.log_processor = {'by_epoch': False}
        cfg.param_scheduler = None
        runner = Runner.from_cfg(cfg)
        with record_host_syncs(device) as places:
            waits = Waits(places)
            runner.register_hook(waits)
            runner.train()
        steps[hook] = waits.per_step
    assert len(steps[OURS]) == 7
    assert steps[OURS][1:3] + steps[OURS][4:] == [0] * 5
    assert steps[OURS][3] == 2 or device == 'cuda', 'the logger fetches loss and norm of the gradients'
    assert min(steps['RuntimeInfoHook']) >= 2, 'mmengine reads loss and norm in every step'
