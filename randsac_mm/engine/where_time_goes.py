"""A breakdown of the training time in the log line: waiting for data, launching work, computing."""

from time import perf_counter
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook, LoggerHook
from torch import Tensor

from randsac_mm.engine.resources import cores_per_process
from randsac_mm.registry import register

_MUCH_WAITING = 0.1  # share of time spent waiting for data above which a warning is logged


@register('HOOKS', everywhere=True)
class WhereTimeGoesHook(Hook):
    """Add shares of the time since the last log line, and the images per second, to each log line.

    ``custom_hooks = [dict(type='WhereTimeGoesHook')]``.

    * ``images_per_s``: images of all devices per second, without validation and what happens between epochs.
    * ``data_share``: waiting for a batch.
    * ``launch_share``: the host's time in the training step. A GPU may lag behind; a CPU computes in it.
    * ``compute_share``: the device's time from the step's first to its last operation, on a GPU only.

    The rest is other hooks. ``data_share`` near 0 and ``compute_share`` near 1 is as it should be. ``launch_share`` and
    ``compute_share`` both near 1: device and host wait for each other in every step; compile, or use a larger batch.
    If more than a tenth of the time is spent waiting for data, after the first line, a warning is logged once.
    """

    priority = 'VERY_HIGH'  # first in both directions: the end of loading, and the end of the step
    _mark = 0.0  # a runner that only tests calls no before_train

    def before_run(self, runner: Any) -> None:
        """Register a last hook, which notes that all others of a step are done."""
        runner.register_hook(_AfterAllOthers(self))

    def before_train(self, runner: Any) -> None:
        """Start anew."""
        self._timer = _DeviceTimer() if next(runner.model.parameters()).is_cuda else None
        self._logger = next((hook for hook in runner.hooks if isinstance(hook, LoggerHook)), None)
        self._first, self._warned = True, False
        self._mark = perf_counter()
        self._reset()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Note that the batch is there."""
        self.data += self.lap()
        if self._timer is not None:
            self._timer.start()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Note that the step is launched; pass the numbers to the message hub if a log line is due."""
        if self._timer is not None:
            self._timer.stop()
        self.launch += self.lap()
        self.steps += 1
        self.images += _batch_size(data_batch)
        if self._line_is_due(runner, batch_idx):
            self._write(runner)

    def lap(self) -> float:
        """Return the seconds since the last call."""
        last, self._mark = self._mark, perf_counter()
        return self._mark - last

    def _reset(self) -> None:
        self.data = self.launch = self.hooks = 0.0  # seconds since the last line
        self.steps = self.images = 0

    def _line_is_due(self, runner: Any, batch_idx: int) -> bool:
        """Return whether mmengine's logger, which comes later, writes a line in this step."""
        logger, loader = self._logger, runner.train_dataloader
        if logger is None or self.every_n_inner_iters(batch_idx, logger.interval):
            return logger is not None
        return self.end_of_epoch(loader, batch_idx) and (not logger.ignore_last or len(loader) <= logger.interval)

    def _write(self, runner: Any) -> None:
        wall = self.data + self.launch + self.hooks
        values = {'data_share': self.data / wall, 'launch_share': self.launch / wall}
        seconds = self._timer and self._timer.seconds_per_step()
        if seconds is not None:
            values['compute_share'] = seconds * self.steps / wall
        if self.images:
            values['images_per_s'] = self.images * get_world_size() / wall
        for name, value in values.items():
            runner.message_hub.update_scalar(f'train/{name}', value)
        if values['data_share'] > _MUCH_WAITING and not self._first and not self._warned:
            self._warned = True
            runner.logger.warning(
                f'{values["data_share"]:.0%} of the time is spent waiting for data, with num_workers='
                f'{runner.train_dataloader.num_workers} and {cores_per_process()} CPU core(s). Use more workers, '
                'CachedImages (decodes once), faster storage, or InMemoryDataset (small data, on the device)'
            )
        self._first = False
        self._reset()


class _AfterAllOthers(Hook):
    """Note for the breakdown that the other hooks are done and loading begins."""

    priority = 'LOWEST'

    def __init__(self, breakdown: WhereTimeGoesHook) -> None:
        self.breakdown = breakdown

    def before_train_epoch(self, runner: Any) -> None:
        self.breakdown.lap()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        self.breakdown.hooks += self.breakdown.lap()

    def after_val(self, runner: Any) -> None:  # a validation between two steps is not counted
        self.breakdown.lap()


class _DeviceTimer:
    """Time steps on a CUDA device without waiting for it."""

    def __init__(self) -> None:
        self._running: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def start(self) -> None:
        self._pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self._pair[0].record()

    def stop(self) -> None:
        self._pair[1].record()
        self._running.append(self._pair)

    def seconds_per_step(self) -> float | None:
        """Average the steps that the device has finished since the last call; None if there are none."""
        done = []
        while self._running and self._running[0][1].query():
            first, last = self._running.pop(0)
            done.append(first.elapsed_time(last) / 1000)
        return sum(done) / len(done) if done else None


def _batch_size(data_batch: Any) -> int:
    """Count the images of a batch, 0 if it is of an unknown kind."""
    inputs = data_batch.get('inputs') if isinstance(data_batch, dict) else None
    if isinstance(inputs, (list, tuple)) and inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim == 4:
        inputs = inputs[0]  # a list of views, each a batch
    return len(inputs) if isinstance(inputs, (list, tuple, Tensor)) else 0
