"""Losses that are fetched late give the logs of mmengine's own hook, and a steady step waits for nothing."""

import copy
import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from engine.toy_engine import Interrupted, ToyModel, last_checkpoint, toy_config
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner

from host_syncs import count_host_syncs
from randsac_mm.engine import DeferredRuntimeInfoHook
from randsac_mm.engine.deferred_log import DeferredHistory, DeferredScalars
from randsac_mm.engine.plain import from_plain, to_plain


@MODELS.register_module()
class ManyLosses(ToyModel):
    """Gives losses of several types from one buffer, which the next step overwrites, as CUDA graphs do."""

    def __init__(self, nan_at=()):
        super().__init__()
        self.nan_at = nan_at
        self.static = torch.zeros(())
        self.calls = 0

    def forward(self, inputs, mode='tensor'):
        result = super().forward(inputs, mode)
        if mode != 'loss':
            return result
        self.calls += 1
        if self.calls in self.nan_at:
            result['loss'] = result['loss'] * math.nan
        return result

    def parse_losses(self, losses):
        loss, log = super().parse_losses(losses)
        log['loss'] = self.static.copy_(loss.detach())
        log['loss_half'] = loss.detach().bfloat16()[None]
        log['seen'] = torch.tensor(2**40 + self.calls)
        log['good'] = torch.tensor(self.calls % 3 == 0)
        log['plain'] = 0.5 * self.calls
        return loss, log


@HOOKS.register_module()
class Reader(Hook):
    """Looks at the history in the middle of an interval and remembers what it saw."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter in (2, 5):
            self.seen = [*getattr(self, 'seen', []), runner.message_hub.get_scalar('train/loss').mean(3)]


def run(folder, hook, *, model=None, log=None, hooks=(), resume=None, interval=3, **options):
    clip = options.pop('clip', None)
    counts = options.pop('accumulate', 1)
    config = toy_config(folder, **options)
    config['model'] = {'type': 'ManyLosses', **(model or {})}
    config['optim_wrapper'].update(clip_grad=clip and dict(clip), accumulative_counts=counts)
    config['default_hooks'].update(runtime_info={'type': hook}, logger={'type': 'LoggerHook', 'interval': interval})
    config['log_processor'] = {'by_epoch': options.get('epochs') is not None, **(log or {})}
    config['custom_hooks'] = list(hooks)
    if counts > 1:  # mmengine's schedulers warn in a step without update
        config['param_scheduler'] = None
    if resume:
        config.update(resume=True, load_from=str(resume))
    runner = Runner(**config)
    runner.train()
    return runner


def lines(runner):
    """Read the JSON log, without what is measured."""
    path = next(Path(runner.log_dir).glob('vis_data/[0-9]*.json'))
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [[(k, v) for k, v in entry.items() if k not in ('time', 'data_time', 'memory')] for entry in entries]


def histories(runner):
    scalars = runner.message_hub.state_dict()['log_scalars']
    return {k: [part.tolist() for part in v.data] + [v.data[0].dtype] for k, v in scalars.items() if 'time' not in k}


WINDOWS = {'window_size': 4, 'custom_cfg': [{'data_src': 'loss', 'log_name': 'worst', 'method_name': 'max'}]}


@pytest.mark.parametrize(
    'options',
    [
        {'epochs': 2, 'val': True, 'clip': {'max_norm': 0.1}, 'log': WINDOWS},
        {'iters': 9, 'val': True, 'clip': {'max_norm': 0.1}, 'accumulate': 2},
        {'iters': 7, 'clip': {'type': 'value', 'clip_value': 0.1}},
    ],
)
def test_logs_equal_those_of_mmengines_hook(tmp_path, options):
    found = {}
    for hook in ('RuntimeInfoHook', 'DeferredRuntimeInfoHook'):
        reader = Reader()
        runner = run(tmp_path / hook, hook, hooks=[reader], **options)
        found[hook] = lines(runner), histories(runner), reader.seen[:2]
    (expected, history, seen), (logged, deferred, read) = found.values()
    assert len(expected) > 1
    assert logged == expected, 'same keys in the same order, same values'
    assert deferred == history
    assert read == seen
    assert ('train/grad_norm' in history) == ('max_norm' in options['clip'])
    assert len(set(history['train/loss'][0])) > 4, 'the steps differ, so that a late read would be noticed'


def test_histories_survive_a_checkpoint_and_go_on(tmp_path):
    hook = 'DeferredRuntimeInfoHook'
    whole = run(tmp_path / 'whole', hook, epochs=2)
    with pytest.raises(Interrupted):
        run(tmp_path / 'part', hook, epochs=2, hooks=[{'type': 'Interrupt', 'iteration': 6}])
    resumed = run(tmp_path / 'part', hook, epochs=2, resume=last_checkpoint(tmp_path / 'part'))
    assert histories(resumed)['train/loss'] == histories(whole)['train/loss']
    assert len(histories(whole)['train/loss'][0]) == 8


@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda h: pickle.loads(pickle.dumps(h)), lambda h: h.plain()])
def test_copies_are_mmengines_own_and_complete(duplicate):
    hub = MessageHub.get_instance(f'copies{id(duplicate)}')
    scalars = DeferredScalars(hub)
    for step in range(3):
        scalars.add({'train/loss': torch.tensor(step + 0.5)}, step)
    copied = duplicate(hub.get_scalar('train/loss'))
    assert type(copied) is HistoryBuffer
    assert copied.data[0].tolist() == [0.5, 1.5, 2.5]
    assert copied.current() == 2.5
    assert from_plain(to_plain(copied)).data[1].tolist() == [1, 1, 1]


def test_pending_values_are_moved_together_and_at_the_latest_after_max_steps():
    hub = MessageHub.get_instance('latest')
    scalars = DeferredScalars(hub, max_steps=4)
    with count_host_syncs('cpu') as counter:
        for step in range(1, 5):
            scalars.add({'train/a': torch.tensor(1.0 * step), 'train/b': torch.tensor(step)}, step)
            assert len(scalars) == step - 1
        assert counter.total == 2, 'the first value of each key tells mmengine about it'
        scalars.add({'train/a': torch.tensor(5.0)}, 5)
        assert counter.total == 3, 'one transfer for both keys'
    assert len(scalars) == 0
    assert hub.get_scalar('train/a').data[0].tolist() == [1, 2, 3, 4, 5]
    hub.update_scalar('train/b', 7)
    assert hub.get_scalar('train/b').data[0].tolist() == [1, 2, 3, 4, 7]


def test_a_tensor_may_be_overwritten_afterwards():
    hub = MessageHub.get_instance('overwritten')
    scalars = DeferredScalars(hub)
    static = torch.zeros(())
    for step in range(4):
        scalars.add({'train/loss': static.fill_(step)}, step)
    assert hub.get_scalar('train/loss').data[0].tolist() == [0, 1, 2, 3]


def test_a_history_keeps_its_maximal_length():
    hub = MessageHub.get_instance('short')
    scalars = DeferredScalars(hub)
    hub.log_scalars['train/a'] = DeferredHistory(HistoryBuffer([1.0, 2.0], [1, 1], max_length=3), scalars)
    for value in (3.0, 4.0):
        scalars.add({'train/a': torch.tensor(value)}, 0)
    assert hub.get_scalar('train/a').data[0].tolist() == [2, 3, 4]


def test_a_loss_that_is_not_finite_stops_the_run_before_the_next_checkpoint(tmp_path):
    hook, model = 'DeferredRuntimeInfoHook', {'nan_at': [6]}
    with pytest.raises(FloatingPointError, match=r'train/loss is nan in iteration 6 \(and \d more such value'):
        run(tmp_path / 'epochs', hook, epochs=2, model=model)
    assert [path.name for path in tmp_path.glob('epochs/*.pth')] == ['epoch_1.pth']
    with pytest.raises(
        FloatingPointError, match=r'train/loss is nan in iteration 6 \(and 1 more such value\(s\) until iteration 6\): '
    ):
        run(tmp_path / 'iters', hook, iters=9, model=model, interval=100, max_keep_ckpts=2)
    assert sorted(path.name for path in tmp_path.glob('iters/*.pth')) == ['iter_4.pth', 'iter_5.pth'], (
        'the checkpoint itself looks'
    )


def test_it_can_be_told_to_go_on(tmp_path, caplog):
    hook = DeferredRuntimeInfoHook(stop_at_nan=False)
    config = toy_config(tmp_path, epochs=2)
    config['model'] = {'type': 'ManyLosses', 'nan_at': [2]}
    config['default_hooks'].update(runtime_info=hook)
    warned = []
    runner = Runner(**config)
    runner.logger.warning = warned.append
    runner.train()
    [text] = [text for text in warned if 'is nan' in text]
    assert text.startswith('train/loss is nan in iteration 2')


def test_scaled_float16_is_only_warned():
    hook = DeferredRuntimeInfoHook()
    warned = []

    class Run:
        class optim_wrapper:
            loss_scaler = object()

        class logger:
            warning = warned.append

        class train_dataloader:
            dataset = ()

        message_hub = MessageHub.get_instance('scaled')
        epoch = iter = 0
        max_epochs = max_iters = 1

    hook.before_train(Run)
    for loss in (1.0, math.inf, math.inf, 1.0):
        hook.after_train_iter(Run, 0, outputs={'loss': torch.tensor(loss)})
        hook.after_train_epoch(Run)
    hook.after_train_iter(Run, 0, outputs={'loss': torch.tensor(math.nan)})
    hook.after_train_epoch(Run)
    assert [text.split(' in ')[0] for text in warned] == ['train/loss is inf', 'train/loss is nan']


class Waits(Hook):
    """Counts the waits in each iteration, from the batch to the end of the last hook."""

    priority = 'LOWEST'

    def __init__(self, counter):
        self.counter = counter
        self.per_step = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before = self.counter.total

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.per_step.append(self.counter.total - self.before)


def waits(root, folder, hook, device):
    cfg = Config.fromfile(root / 'configs/smoke/randsac_vit_digits.py')
    cfg.work_dir, cfg.log_level, cfg.experiment_name = str(folder), 'WARNING', f'waits_{hook}'
    cfg.default_hooks.runtime_info = {'type': hook}
    cfg.default_hooks.logger.interval = 4
    cfg.default_hooks.checkpoint = None
    cfg.optim_wrapper.clip_grad = {'max_norm': 1.0}
    cfg.train_dataloader.update(batch_size=8)
    cfg.train_cfg = {'by_epoch': False, 'max_iters': 7}
    cfg.log_processor = {'by_epoch': False}
    cfg.param_scheduler = None
    runner = Runner.from_cfg(cfg)
    with count_host_syncs(device) as counter:
        hook = Waits(counter)
        runner.register_hook(hook)
        runner.train()
    return hook.per_step, counter.where


def test_a_steady_step_of_randsac_waits_for_nothing(root, tmp_path):
    steps, where = waits(root, tmp_path / 'ours', 'DeferredRuntimeInfoHook', 'cpu')
    assert len(steps) == 7
    assert steps[1:3] + steps[4:] == [0] * 5, where
    assert steps[3] == 1, 'the logger fetches loss and norm of the gradients together'
    steps, _ = waits(root, tmp_path / 'mmengine', 'RuntimeInfoHook', 'cpu')
    assert steps == [2] * 7, 'mmengine reads loss and norm in every step'


@pytest.mark.gpu
def test_a_steady_step_of_randsac_waits_for_nothing_on_a_gpu(root, tmp_path):
    steps, where = waits(root, tmp_path / 'ours', 'DeferredRuntimeInfoHook', 'cuda')
    assert steps[1:3] + steps[4:] == [0] * 5, where
    steps, _ = waits(root, tmp_path / 'mmengine', 'RuntimeInfoHook', 'cuda')
    assert min(steps) >= 2
