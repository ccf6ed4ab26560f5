"""A time for a whole run, from the start of its process: as many steps as fit, and schedules that end with them."""

import argparse
import os
import re
import time
from collections import deque
from pathlib import Path
from statistics import median_low
from typing import Any

import torch
from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop

from randsac_mm.engine.checkpoint import ResumableCheckpointHook
from randsac_mm.engine.schedule import move_end
from randsac_mm.registry import register

_UNITS = {'d': 86400, 'h': 3600, 'm': 60, 's': 1}
_SAVED = 'time_budget'  # in the message hub, and thereby in checkpoints
_TOLERANCE, _CHECK, _RECENT = 0.01, 0.02, 0.1  # shares of the budget


def parse_duration(text: str) -> float:
    """Return ``'90s'``, ``'30m'``, ``'1.5h'`` or ``'2d'`` in seconds; an argument type for argparse."""
    match = re.fullmatch(r'(\d+\.?\d*)([smhd])', text)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f'{text!r} is no time: use a number and s, m, h or d, such as 30m')
    return float(match[1]) * _UNITS[match[2]]


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units.

    Example:
        >>> format_duration(5400), format_duration(59.7), format_duration(200)
        ('1h 30m', '1m', '3m 20s')
    """
    seconds, parts = round(seconds), []
    for unit, size in _UNITS.items():
        parts += [f'{seconds // size}{unit}'] if seconds >= size else []
        seconds %= size
    return ' '.join(parts[:2]) or '0s'


def _find_start() -> float:
    """Return when this process started, in seconds since 1970; without ``/proc``: when this module was imported."""
    if 'RANDSAC_MM_START' in os.environ:
        return float(os.environ['RANDSAC_MM_START'])
    try:
        ticks = int(Path('/proc/self/stat').read_text().rpartition(')')[2].split()[19])
        age = float(Path('/proc/uptime').read_text().split()[0]) - ticks / os.sysconf('SC_CLK_TCK')
    except (OSError, ValueError):
        age = 0.0
    return time.time() - max(age, 0.0)


_START = _find_start()


def process_seconds() -> float:
    """Return the age of this process in seconds."""
    return time.time() - _START


@register('HOOKS', everywhere=True)
class TimeBudgetHook(Hook):
    """End a run, and the schedules that end with it, when a time has been used up.

    ``custom_hooks = [dict(type='TimeBudgetHook', seconds=1800, interval=100)]``, with ``IterBasedTrainLoop``. From the
    recent steps it forecasts the end; if that is off by more than one percent of the time, it changes the number of
    steps, ``max_iters``, and cosine, polynomial and multi-step schedules that end with it go on from their current
    value to their last, see :func:`~randsac_mm.engine.schedule.move_end`. A resumed run has the time that is left.

    Args:
        seconds: Time from the start of the process to its end.
        reserve: Seconds of it for what follows the training.
        interval: Steps between checkpoints, validations or probes, whose time is not that of a step.

    Raises:
        ValueError: Before the training, if the loop counts epochs.
    """

    priority = 'NORMAL'  # after the timer, before the log line

    def __init__(self, seconds: float, reserve: float = 0.0, interval: int = 1000) -> None:
        self.seconds, self.reserve, self.interval = seconds, reserve, interval

    def before_run(self, runner: Any) -> None:
        """Let a resumed run keep the schedules of the checkpoint, which are no longer those of the config."""
        for hook in runner.hooks:
            if isinstance(hook, ResumableCheckpointHook):
                hook.keep_schedule = not hook.new_schedule

    def before_train(self, runner: Any) -> None:
        """Continue with the time and the number of steps of a checkpoint."""
        if not isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError('TimeBudgetHook counts steps: use IterBasedTrainLoop, not EpochBasedTrainLoop')
        # Start of the process that wrote the checkpoint, seconds before it and until the checkpoint, number of steps.
        start, before, spent, length = runner.message_hub.get_info(_SAVED) or (_START, 0.0, 0.0, runner.max_iters)
        self._before = before if start == _START else spent
        runner.train_loop._max_iters = length
        self._recent: deque[float] = deque()  # seconds of steps
        self._events: list[float] = []  # the same, with what comes every ``interval`` steps
        self._last: float | None = None
        self._next = runner.iter + 1  # step of the next forecast

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Note the time of the step; forecast the end now and then, and near the end after every step."""
        now = self._before + process_seconds()
        if self._last is not None:  # the first step waits for workers and compiler
            (self._recent if runner.iter % self.interval else self._events).append(now - self._last)
        self._last = now
        if runner.iter + 1 >= self._next:
            self._fit(runner, runner.iter + 1, now)
        runner.message_hub.update_info(_SAVED, [_START, self._before, now, runner.max_iters])
        runner.message_hub.update_info('eta', max(0.0, self.seconds - now))

    def _fit(self, runner: Any, done: int, now: float) -> None:
        """Choose the number of steps after step ``done``, the same in all processes."""
        step = self._step_seconds()
        event = max(0.0, sum(self._events) / len(self._events) - step) if self._events else 0.0
        agreed = torch.tensor([now, step, event], dtype=torch.float64)
        broadcast(agreed)
        now, step, event = agreed.tolist()
        left, cost = self.seconds - self.reserve - now - event, step + event / self.interval  # an event is the last
        remaining = runner.max_iters - done
        if not step and left > 0:
            self._next = done + 1
            return
        fits = max(0, int(left / cost)) if step else 0
        if abs(remaining - fits) * cost > _TOLERANCE * self.seconds or fits == 0 > left:
            runner.logger.info(f'Time budget: {done + fits} steps fit, not {runner.max_iters}')
            move_end(runner.param_schedulers, runner.max_iters, done + fits)
            runner.train_loop._max_iters = done + fits
            remaining = fits
        self._next = done + max(1, int(min(_CHECK * self.seconds / max(cost, 1e-9), remaining / 4)))

    def _step_seconds(self) -> float:
        """Average recent steps, without single ones, such as those that are compiled, that outweigh the others."""
        total = sum(self._recent)
        while len(self._recent) > 20 and total > _RECENT * self.seconds:
            total -= self._recent.popleft()
        steps = sorted(self._recent)
        if len(steps) < 8:
            return median_low(steps) if len(steps) > 2 and total > _CHECK * self.seconds else 0.0
        while len(steps) > 4 and 2 * steps[-1] > total - steps[-1]:
            total -= steps.pop()
        return total / len(steps)

    def after_train(self, runner: Any) -> None:
        """Log how much of the time is used up."""
        spent = format_duration(self._before + process_seconds())
        runner.logger.info(f'Time budget: {runner.iter} steps, {spent} of {format_duration(self.seconds)}')
