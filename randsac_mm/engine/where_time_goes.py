"""A breakdown of the training time in the log line: waiting for data, launching work, computing."""

import math
import time
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook, LoggerHook
from torch import Tensor

from randsac_mm.engine.resources import cores_per_process
from randsac_mm.registry import register


@register('HOOKS', everywhere=True)
class WhereTimeGoesHook(Hook):
    """Add shares of the time since the last log line, and the images per second, to each log line.

    ``custom_hooks = [dict(type='WhereTimeGoesHook')]``. The time from one step to the next has three parts: waiting for
    the data loader, launching the step, and other hooks (writing logs and checkpoints).

    * ``images_per_s``: images of all devices per second. Validation and what happens between epochs are not counted.
    * ``data_share``: waiting for a batch. mmengine's ``data_time`` includes the hooks of the last step.
    * ``launch_share``: the host's time in the training step. While the device computes the host may run ahead.
    * ``compute_share``: the device's time from the step's first to its last operation, on a GPU only. On a CPU nothing
      runs ahead: launching is computing.

    ``data_share`` near 0 and ``compute_share`` near 1 is as it should be. ``launch_share`` and ``compute_share`` both
    near 1: the device waits for the host or the host for the device in every step; compile, or use a larger batch.
    Waiting for other processes is part of the step.

    CUDA events are read only when a line is due and only where the device has passed them: the hook never waits.

    Args:
        data_limit: Share of time spent waiting for data above which a warning says what to change, once. The first
            line, which includes the start of the workers, does not count.

    Raises:
        ValueError: If ``data_limit`` is not between 0 and 1.
    """

    priority = 'VERY_HIGH'  # first in both directions: the end of loading, and the end of the step

    def __init__(self, data_limit: float = 0.1) -> None:
        if not 0 <= data_limit <= 1:
            raise ValueError(f'data_limit={data_limit} must be a share of time, between 0 and 1')
        self.data_limit = data_limit
        self.clock = time.perf_counter
        self._warned = False
        self._first = True
        self._timer: _DeviceTimer | None = None
        self._reset()

    def before_run(self, runner: Any) -> None:
        """Register a last hook, which notes that all others of a step are done."""
        runner.register_hook(_AfterAllOthers(self))

    def before_train(self, runner: Any) -> None:
        """Start anew."""
        self._timer = _DeviceTimer() if next(runner.model.parameters()).device.type == 'cuda' else None
        self._first = True
        self._logger = next((hook for hook in runner.hooks if isinstance(hook, LoggerHook)), None)
        self._reset()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Note that the batch is there."""
        self._step_began = self.clock()
        self.data += self._step_began - self._idle_since
        if self._timer is not None:
            self._timer.start()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Note that the step is launched; pass the numbers to the message hub if a log line is due."""
        if self._timer is not None:
            self._timer.stop()
        self._hooks_began = self.clock()
        self.launch += self._hooks_began - self._step_began
        self.steps += 1
        self.images += _batch_size(data_batch)
        if self._line_is_due(runner, batch_idx):
            self._write(runner)

    def now_loading(self, after_step: bool) -> None:
        """Note that from now on time is spent waiting for data.

        Args:
            after_step: Whether a step has just ended, so that what has passed since were its hooks.
        """
        self._idle_since = self.clock()
        if after_step:
            self.hooks += self._idle_since - self._hooks_began

    def leave_out(self, seconds: float) -> None:
        """Do not count ``seconds`` of another hook's ``after_train_iter``, whose caller it is."""
        self._hooks_began += seconds

    def _reset(self) -> None:
        self.data = self.launch = self.hooks = 0.0  # seconds since the last line
        self.steps = self.images = 0
        self._idle_since = self._hooks_began = self.clock()

    def _line_is_due(self, runner: Any, batch_idx: int) -> bool:
        """Return whether mmengine's logger, which comes later, writes a line in this step."""
        logger = self._logger
        if logger is None:
            return False
        if self.every_n_inner_iters(batch_idx, logger.interval):
            return True
        loader = runner.train_dataloader
        return self.end_of_epoch(loader, batch_idx) and (not logger.ignore_last or len(loader) <= logger.interval)

    def _write(self, runner: Any) -> None:
        wall = max(self.data + self.launch + self.hooks, 1e-9)
        values = {'data_share': self.data / wall, 'launch_share': self.launch / wall}
        if self._timer is not None:
            seconds = self._timer.seconds_per_step()
            if not math.isnan(seconds):
                values['compute_share'] = seconds * self.steps / wall
        if self.images:
            values['images_per_s'] = self.images * get_world_size() / wall
        for name, value in values.items():
            runner.message_hub.update_scalar(f'train/{name}', value)
        if values['data_share'] > self.data_limit and not self._first and not self._warned:
            self._warned = True
            runner.logger.warning(
                f'{values["data_share"]:.0%} of the time is spent waiting for data, with num_workers='
                f'{runner.train_dataloader.num_workers} and {cores_per_process()} CPU core(s) for this process. What '
                'helps: more workers, decoding only once (CachedImages), faster storage, or small data on the device '
                '(InMemoryDataset)'
            )
        self._first = False
        self._reset()


class _AfterAllOthers(Hook):
    """Note for the breakdown that the other hooks are done and loading begins."""

    priority = 'LOWEST'

    def __init__(self, breakdown: WhereTimeGoesHook) -> None:
        self.breakdown = breakdown

    def before_train_epoch(self, runner: Any) -> None:
        self.breakdown.now_loading(after_step=False)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        self.breakdown.now_loading(after_step=True)

    def after_val(self, runner: Any) -> None:  # a validation between two steps is not counted
        self.breakdown.now_loading(after_step=False)


class _DeviceTimer:
    """Time steps on a CUDA device without waiting for it.

    Args:
        event: Makes an event; another one in tests.
    """

    def __init__(self, event: Any = None) -> None:
        self._event = event or (lambda: torch.cuda.Event(enable_timing=True))
        self._running: list[tuple[Any, Any]] = []
        self._free: list[tuple[Any, Any]] = []

    def start(self) -> None:
        self._pair = self._free.pop() if self._free else (self._event(), self._event())
        self._pair[0].record()

    def stop(self) -> None:
        self._pair[1].record()
        self._running.append(self._pair)

    def seconds_per_step(self) -> float:
        """Average the steps that the device has finished since the last call; NaN if there are none."""
        done = []
        while self._running and self._running[0][1].query():  # in order: what follows an unfinished one is unfinished
            done.append(self._running.pop(0))
        self._free += done
        return sum(first.elapsed_time(last) for first, last in done) / 1000 / len(done) if done else math.nan


def _batch_size(data_batch: Any) -> int:
    """Count the images of a batch, 0 if it is of an unknown kind."""
    inputs = data_batch.get('inputs') if isinstance(data_batch, dict) else None
    if isinstance(inputs, (list, tuple)) and inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim == 4:
        inputs = inputs[0]  # a list of views, each a batch
    return len(inputs) if isinstance(inputs, (list, tuple, Tensor)) else 0
