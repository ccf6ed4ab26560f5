"""Contract: a run with a time ends with it, whatever the steps take, and its schedules end with the run."""

import argparse
import contextlib
import math

import pytest
import torch
from engine.toy_engine import Interrupted, last_checkpoint, toy_config
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import CosineAnnealingLR, LinearLR, MultiStepLR, PolyLR

from randsac_mm.engine import launch, time_budget
from randsac_mm.engine.schedule import move_end
from randsac_mm.engine.time_budget import format_duration, parse_duration

SECONDS, RESERVE, INTERVAL = 1000.0, 20.0, 12


class Clock(Hook):
    """Stands for the time: every step takes what ``cost(iteration)`` is."""

    priority = 'VERY_HIGH'

    def __init__(self, cost, now, stop):
        self.cost, self.now, self.stop = cost, now, stop

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.now += self.cost(runner.iter)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.stop:
            raise Interrupted


@pytest.fixture
def run(tmp_path, monkeypatch):
    def train(cost, iters, resume=False, stop=None, start=0.0, age=7.0):
        """Return the runner, the clock at the end and the learning rate of each step."""
        clock = Clock(cost, age, stop)
        monkeypatch.setattr(time_budget, 'process_seconds', lambda: clock.now)
        monkeypatch.setattr(time_budget, '_START', start)
        config = toy_config(tmp_path, iters=iters, sampler='InfiniteSampler', interval=INTERVAL, max_keep_ckpts=2)
        config['default_hooks']['checkpoint']['interval'] = INTERVAL
        config['param_scheduler'] = [
            {'type': 'LinearLR', 'start_factor': 0.01, 'by_epoch': False, 'begin': 0, 'end': 10},
            {'type': 'CosineAnnealingLR', 'by_epoch': False, 'begin': 10, 'end': iters, 'T_max': iters - 10},
        ]
        config['custom_hooks'] = [
            {'type': 'TimeBudgetHook', 'seconds': SECONDS, 'reserve': RESERVE, 'interval': INTERVAL}
        ]
        if resume:
            config.update(resume=True, load_from=str(last_checkpoint(tmp_path)))
        runner = launch.build_runner(Config(config))
        runner.register_hook(clock)
        with contextlib.suppress(Interrupted):
            runner.train()
        return runner, clock.now, runner.message_hub.get_scalar('train/lr').data[0].tolist()

    return train


@pytest.mark.slow
@pytest.mark.parametrize(
    'cost',
    [
        pytest.param(lambda i: 8.0, id='as planned'),
        pytest.param(lambda i: 20.0, id='slower'),
        pytest.param(lambda i: 4.0, id='faster'),
        pytest.param(lambda i: 6.0 if i < 60 else 14.0, id='others begin to work'),
        pytest.param(lambda i: [90, 60, 40][i] if i < 3 else 6.0, id='compiles'),
        pytest.param(lambda i: 40.0 if i % 8 == 0 else 1.0, id='waits for workers'),
        pytest.param(lambda i: 6.0 + 30 * (i % INTERVAL == 0), id='probes'),
        pytest.param(lambda i: 70.0, id='a dozen steps'),
    ],
)
def test_a_run_ends_with_its_time_and_its_schedule_with_the_run(run, cost):
    runner, end, rates = run(cost, iters=120)
    assert end == pytest.approx(SECONDS - RESERVE, abs=max(0.02 * SECONDS, cost(9)))
    assert len(rates) == runner.max_iters == runner.iter
    assert last_checkpoint(runner.work_dir).name == f'iter_{runner.iter}.pth'
    assert len(rates) < 20 or (0 < rates[-1] < 0.002 and rates[10:] == sorted(rates[10:], reverse=True))


def test_steps_that_become_too_slow_at_the_end_are_left_out(run):
    runner, end, _ = run(lambda i: 8.0 if i < 112 else 35.0, iters=121)
    assert end < SECONDS
    assert runner.iter < 121
    assert last_checkpoint(runner.work_dir).name == f'iter_{runner.iter}.pth'


@pytest.mark.parametrize('process', ['the same', 'another'])
def test_a_resumed_run_has_the_time_that_is_left(run, process):
    """A new process brings its own age; the steps between checkpoint and kill count as little as the time of death."""
    _, killed, _ = run(lambda i: 10.0, iters=120, stop=55)
    saved = 7 + 48 * 10  # at the last checkpoint
    age = killed if process == 'the same' else 7
    runner, end, rates = run(lambda i: 10.0, iters=120, resume=True, start=float(process == 'another'), age=age)
    assert end + saved * (process == 'another') == pytest.approx(SECONDS - RESERVE, abs=20)
    assert runner.iter == runner.max_iters == len(rates)  # the log has all of them
    assert 0 < rates[-1] < 0.002


def test_loops_that_count_epochs_are_refused(tmp_path):
    config = toy_config(tmp_path, epochs=2)
    config['custom_hooks'] = [{'type': 'TimeBudgetHook', 'seconds': 10.0}]
    with pytest.raises(ValueError, match='IterBasedTrainLoop'):
        launch.build_runner(Config(config)).train()


def values(kind, changes, length, **options):
    """Return the learning rate of every step of a run whose length changes, {step: new length}."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = kind(optimizer, by_epoch=False, **options)
    found, step = [], 0
    while step < length:
        found.append(optimizer.param_groups[0]['lr'])
        if step in changes:
            move_end([scheduler], length, changes[step])
            length = changes[step]
        optimizer.step()
        scheduler.step()
        step += 1
    return found


@pytest.mark.parametrize('now', [26, 61, 300])
def test_a_cosine_goes_on_from_where_it_is_to_its_lowest_value(now):
    begin, before, step, least = 5, 60, 20, 0.1
    rates = values(CosineAnnealingLR, {step: now}, before, begin=begin, end=before, T_max=before - begin, eta_min=least)

    def curve(i, end):  # closed form, by which the recursion is defined
        return 1 + math.cos(math.pi * (i - begin) / (end - begin))

    expected = [1.0] * begin + [least + (1 - least) * curve(i, before) / 2 for i in range(begin, step + 1)]
    here = expected[-1]
    expected += [least + (here - least) * curve(i, now) / curve(step, now) for i in range(step + 1, now)]
    assert rates == pytest.approx(expected, rel=1e-9)
    assert rates[-1] - least < 0.1 * (here - least)


@pytest.mark.parametrize(('power', 'now'), [(1.0, 40), (0.9, 200)])
def test_a_polynomial_goes_on_from_where_it_is_to_its_lowest_value(power, now):
    step, before = 30, 100
    rates = values(PolyLR, {step: now}, before, end=before, power=power, eta_min=0.01)
    here = 0.01 + 0.99 * (1 - step / 99) ** power
    assert rates[step] == pytest.approx(here, rel=1e-9)
    expected = [0.01 + (here - 0.01) * ((now - 1 - i) / (now - 1 - step)) ** power for i in range(step, now)]
    assert rates[step:] == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert rates[-1] == pytest.approx(0.01)


@pytest.mark.parametrize('end', [{}, {'end': 100}])
def test_milestones_to_come_keep_their_share(end):
    rates = values(MultiStepLR, {60: 80}, 100, milestones=[50, 80, 90], **end)
    drops = [i for i in range(1, 80) if rates[i] < rates[i - 1]]
    assert drops == [50, 70, 75]


def test_a_warm_up_stays():
    rates = values(LinearLR, {4: 50}, 100, start_factor=0.1, end=10)
    assert rates == values(LinearLR, {}, 50, start_factor=0.1, end=10)


def test_durations():
    assert [parse_duration(text) for text in ('90s', '3m', '1.5h', '2d')] == [90, 180, 5400, 172800]
    assert [format_duration(number) for number in (0.2, 90, 86400 + 3600)] == ['0s', '1m 30s', '1d 1h']
    for text in ('90', 'm', '0s', '-3m', '1h30m', 'nan'):
        with pytest.raises(argparse.ArgumentTypeError, match='30m'):
            parse_duration(text)


def test_age_of_this_process(monkeypatch):
    assert 0 < time_budget.process_seconds() < 86400
    monkeypatch.setenv('RANDSAC_MM_START', '1000.5')
    assert time_budget._find_start() == 1000.5
