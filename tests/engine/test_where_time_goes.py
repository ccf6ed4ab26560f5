"""The breakdown adds up under a clock that only the parts of a step move."""

import json
from pathlib import Path

import pytest
import torch
from engine.toy_engine import ToyData, ToyModel, toy_config
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS, MODELS
from mmengine.runner import Runner

from randsac_mm.engine import WhereTimeGoesHook
from randsac_mm.engine.where_time_goes import _batch_size, _DeviceTimer

NOW = [0.0]


@DATASETS.register_module()
class SlowData(ToyData):
    def __getitem__(self, index):
        NOW[0] += 0.25  # 1 s for a batch of 4
        return super().__getitem__(index)


@MODELS.register_module()
class SlowModel(ToyModel):
    def forward(self, inputs, mode='tensor'):
        NOW[0] += 5 if mode == 'loss' else 1000
        return super().forward(inputs, mode)


@HOOKS.register_module()
class SlowHook(Hook):
    priority = 'VERY_LOW'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        NOW[0] += 2

    def after_train_epoch(self, runner):
        NOW[0] += 1000


def run(folder, accumulate=1, data_limit=0.1, interval=2, **options):
    NOW[0] = 0.0
    config = toy_config(folder, val=True, **options)
    config['model'] = {'type': 'SlowModel'}
    config['train_dataloader']['dataset'] = {'type': 'SlowData', 'size': 16}
    config['optim_wrapper']['accumulative_counts'] = accumulate
    config['param_scheduler'] = None
    config['default_hooks'].update(logger={'type': 'LoggerHook', 'interval': interval}, checkpoint=None)
    config['log_processor'] = {'by_epoch': 'epochs' in options}
    hook = WhereTimeGoesHook(data_limit)
    hook.clock = lambda: NOW[0]
    config['custom_hooks'] = [{'type': 'SlowHook'}, hook]
    runner = Runner(**config)
    warned = []
    runner.logger.warning = lambda text, *args: warned.append(text)
    runner.train()
    path = next(Path(runner.log_dir).glob('vis_data/[0-9]*.json'))
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    warned = [text for text in warned if 'waiting for data' in text]
    return [entry for entry in entries if 'data_share' in entry], warned


@pytest.mark.parametrize('options', [{'epochs': 2}, {'iters': 8}, {'iters': 8, 'accumulate': 2}])
def test_shares_add_up_in_both_loops(tmp_path, options):
    entries, warned = run(tmp_path, data_limit=0.2, **options)
    assert [entry['iter'] for entry in entries] == [2, 4, 6, 8]
    # A line is written before the other hooks of its step, whose time is in the next one.
    for entry, seconds in zip(entries, [14, 16, 16, 16], strict=True):
        assert entry['data_share'] == pytest.approx(2 / seconds)
        assert entry['launch_share'] == pytest.approx(10 / seconds)
        assert entry['images_per_s'] == pytest.approx(8 / seconds)
        assert 'compute_share' not in entry, 'on a CPU launching is computing'
    assert not warned


def test_slow_loading_is_reported_once_and_not_in_the_first_line(tmp_path):
    entries, [text] = run(tmp_path, iters=8, data_limit=0.1)
    assert len(entries) == 4
    assert text.startswith('12% ')
    assert 'num_workers=0' in text
    _, warned = run(tmp_path / 'short', iters=2, data_limit=0.1)
    assert not warned, 'the first line includes the start of the workers'


def test_the_last_steps_of_an_epoch_count_in_the_next_line(tmp_path):
    entries, _ = run(tmp_path, epochs=2, interval=3)
    assert [entry['iter'] for entry in entries] == [3, 7]
    assert entries[1]['images_per_s'] == pytest.approx(16 / 32)


@pytest.mark.parametrize('limit', [-0.1, 1.5])
def test_limit_is_a_share(limit):
    with pytest.raises(ValueError, match=f'data_limit={limit}'):
        WhereTimeGoesHook(limit)


def test_batches_of_every_kind_are_counted():
    images = torch.zeros(3, 3, 8, 8)
    assert _batch_size({'inputs': images}) == _batch_size({'inputs': list(images)}) == 3
    assert _batch_size({'inputs': [images, images]}) == 3, 'two views'
    assert _batch_size([images]) == _batch_size({}) == _batch_size(None) == 0


class Event:
    """Stands for a CUDA event of a device that has done everything up to ``passed`` ms."""

    passed = made = 0

    def __init__(self):
        type(self).made += 1

    def record(self):
        self.at = NOW[0]

    def query(self):
        return self.at <= self.passed

    def elapsed_time(self, other):
        assert self.query() and other.query(), 'a real event would raise'  # noqa: PT018
        return other.at - self.at


def test_device_times_are_read_only_where_the_device_has_passed():
    timer = _DeviceTimer(Event)

    def steps(count):
        for _ in range(count):
            timer.start()
            NOW[0] += 30
            timer.stop()
            NOW[0] += 10

    NOW[0] = 0.0
    steps(3)  # end at 30, 70 and 110 ms
    Event.passed = 75
    assert timer.seconds_per_step() == pytest.approx(0.03)
    assert timer.seconds_per_step() is None, 'nothing has been finished since'
    made = Event.made
    steps(2)
    assert Event.made == made, 'events are used again'
    Event.passed = 1000
    assert timer.seconds_per_step() == pytest.approx(0.03)


@pytest.mark.gpu
def test_compute_share_on_a_gpu(tmp_path):
    config = toy_config(tmp_path, iters=8)
    config['default_hooks'].update(logger={'type': 'LoggerHook', 'interval': 2}, checkpoint=None)
    config['log_processor'] = {'by_epoch': False}
    config['custom_hooks'] = [{'type': 'WhereTimeGoesHook'}]
    runner = Runner(**config)
    runner.train()
    assert runner.message_hub.get_scalar('train/compute_share').current() > 0
