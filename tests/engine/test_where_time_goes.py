"""The breakdown adds up under a clock that only the parts of a step move."""

import pytest
import torch
from engine.toy_engine import ToyData, ToyModel, log_entries, toy_config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from randsac_mm.engine import where_time_goes

NOW = [0.0]


class SlowData(ToyData):
    def __getitem__(self, index):
        NOW[0] += 0.25  # 1 s for a batch of 4
        return super().__getitem__(index)


class SlowModel(ToyModel):
    def forward(self, inputs, mode='tensor'):
        NOW[0] += 5 if mode == 'loss' else 1000
        return super().forward(inputs, mode)


class SlowHook(Hook):
    priority = 'VERY_LOW'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        NOW[0] += 2

    def after_train_epoch(self, runner):
        NOW[0] += 1000


@pytest.fixture(autouse=True)
def clock(request, monkeypatch):
    NOW[0] = 0.0
    if 'gpu' not in request.keywords:
        monkeypatch.setattr(where_time_goes, 'perf_counter', lambda: NOW[0])


def run(folder, accumulate=1, interval=2, **options):
    config = toy_config(folder, val=True, **options)
    config['model'] = SlowModel()
    config['train_dataloader']['dataset'] = SlowData(16)
    config['optim_wrapper']['accumulative_counts'] = accumulate
    config['param_scheduler'] = None
    config['default_hooks'].update(logger={'type': 'LoggerHook', 'interval': interval}, checkpoint=None)
    config['log_processor'] = {'by_epoch': 'epochs' in options}
    config['custom_hooks'] = [SlowHook(), {'type': 'WhereTimeGoesHook'}]
    runner = Runner(**config)
    warned = []
    runner.logger.warning = lambda text, *args: warned.append(text)
    runner.train()
    entries = [entry for entry in log_entries(runner) if 'data_share' in entry]
    return entries, [text for text in warned if 'waiting' in text]


@pytest.mark.parametrize('options', [{'epochs': 2}, {'iters': 8}, {'iters': 8, 'accumulate': 2}])
def test_shares_add_up_in_both_loops(tmp_path, options):
    entries, _ = run(tmp_path, **options)
    assert [entry['iter'] for entry in entries] == [2, 4, 6, 8]
    # A line is written before the other hooks of its step, whose time is in the next one.
    for entry, seconds in zip(entries, [14, 16, 16, 16], strict=True):
        assert entry['data_share'] == pytest.approx(2 / seconds)
        assert entry['launch_share'] == pytest.approx(10 / seconds)
        assert entry['images_per_s'] == pytest.approx(8 / seconds)
        assert 'compute_share' not in entry, 'on a CPU launching is computing'


def test_slow_loading_is_reported_once_and_not_in_the_first_line(tmp_path):
    entries, [text] = run(tmp_path, iters=8)
    assert len(entries) == 4
    assert text.startswith('12% ')
    assert 'num_workers=0' in text
    _, warned = run(tmp_path / 'short', iters=2)
    assert not warned, 'the first line includes the start of the workers'


def test_the_last_steps_of_an_epoch_count_in_the_next_line(tmp_path):
    entries, _ = run(tmp_path, epochs=2, interval=3)
    assert [entry['iter'] for entry in entries] == [3, 7]
    assert entries[1]['images_per_s'] == pytest.approx(16 / 32)


def test_batches_of_every_kind_are_counted():
    images, count = torch.zeros(3, 3, 8, 8), where_time_goes._batch_size
    assert count({'inputs': images}) == count({'inputs': list(images)}) == 3
    assert count({'inputs': [images, images]}) == 3, 'two views'
    assert count([images]) == count({}) == count(None) == 0


class Event:
    """Stands for a CUDA event of a device that has done everything up to ``passed`` ms."""

    passed = 0

    def __init__(self, enable_timing):
        self.at = None

    def record(self):
        self.at = NOW[0]

    def query(self):
        return self.at <= self.passed

    def elapsed_time(self, other):
        assert self.query() and other.query(), 'a real event would raise'  # noqa: PT018
        return other.at - self.at


def test_device_times_are_read_only_where_the_device_has_passed(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'Event', Event)
    timer = where_time_goes._DeviceTimer()
    for milliseconds in (30, 50, 10):  # end at 30, 90 and 110 ms
        timer.start()
        NOW[0] += milliseconds
        timer.stop()
        NOW[0] += 10
    Event.passed = 95
    assert timer.seconds_per_step() == pytest.approx(0.04)
    assert timer.seconds_per_step() is None, 'nothing has been finished since'
    Event.passed = 1000
    assert timer.seconds_per_step() == pytest.approx(0.01)


@pytest.mark.gpu
def test_compute_share_on_a_gpu(tmp_path):
    config = toy_config(tmp_path, iters=8)
    config['default_hooks'].update(logger={'type': 'LoggerHook', 'interval': 2}, checkpoint=None)
    config['custom_hooks'] = [{'type': 'WhereTimeGoesHook'}]
    runner = Runner(**config, log_processor={'by_epoch': False})
    runner.train()
    assert runner.message_hub.get_scalar('train/compute_share').current() > 0
