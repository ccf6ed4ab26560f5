"""Signals end a training after the running step, with a checkpoint from which it continues."""

import os
import signal
import threading
import time
from typing import Any

from randsac_mm.engine.tool import resume_command

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook

from randsac_mm.engine.checkpoint import INTERRUPTED, ResumableCheckpointHook
from randsac_mm.engine.delayed import DelayedReader
from randsac_mm.registry import register

# Signal: exit status. A scheduler that sends SIGUSR1 before a time limit is going to start the job again.
_EXIT = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 0}
_SAME = 1.0  # seconds within which a signal is the same one, sent by a terminal and passed on by torchrun

_received: list[tuple[int, float]] = []  # the first signal and when it came
_replaced: dict[int, Any] = {}  # handlers to be restored


def install_handlers() -> None:
    """Keep the first signal, for the hook to stop the run; another one, a second later, ends the process at once."""
    if _replaced or threading.current_thread() is not threading.main_thread():
        return
    process = os.getpid()

    def handle(number: int, frame: Any) -> None:
        if os.getpid() != process:  # a worker of a data loader, which ends when this process does
            return
        if not _received:
            _received.append((number, time.monotonic()))
            name = signal.Signals(number).name
            os.write(2, f'{name}: stopping after this step, with a checkpoint; once more: at once\n'.encode())
        elif time.monotonic() - _received[0][1] > _SAME:
            signal.signal(number, signal.SIG_DFL)
            os.kill(process, number)

    for number in _EXIT:
        _replaced[number] = signal.signal(number, handle)


def restore_handlers() -> None:
    """Undo :func:`install_handlers` and forget what was received."""
    for number, handler in _replaced.items():
        signal.signal(number, handler)
    _replaced.clear()
    _received.clear()


@register('HOOKS', everywhere=True)
class StopOnSignalHook(Hook):
    """On SIGTERM, SIGINT or SIGUSR1 finish the step, write ``interrupted.pth``, and exit with 143, 130 or 0.

    ``default_hooks = dict(stop_on_signal=dict(type='StopOnSignalHook'))``, with a :class:`ResumableCheckpointHook`.
    All processes stop after the same step, even if only one of them gets the signal. With gradient accumulation that is
    the step in which the weights are updated. In a validation, one process stops at once, several at its end; its
    results are lost then.

    Raises:
        SystemExit: After the checkpoint was written, in every process.
    """

    priority = 'LOWEST'  # after all others of a step

    def before_train(self, runner: Any) -> None:
        """Install the handlers."""
        install_handlers()
        self._reader = DelayedReader()
        self._device = next(runner.model.parameters()).device

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Stop if a process has received a signal and the weights have been updated."""
        number = self._agree()
        wrapper = runner.optim_wrapper
        if number and getattr(wrapper, 'should_update', lambda: True)():
            self._stop(runner, number)

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Stop one process."""
        if _received and get_world_size() == 1 and _replaced:
            self._stop(runner, _received[0][0], validating=True)

    def after_train(self, runner: Any) -> None:
        """Restore the handlers."""
        restore_handlers()

    def _agree(self) -> int:
        """Return the number of the signal that a process has received, the same in all; 0: none."""
        number = _received[0][0] if _received else 0
        if get_world_size() == 1:
            return number
        numbers = torch.full((1,), float(number), device=self._device)
        all_reduce(numbers, 'max')
        self._reader.put(numbers)
        return max((int(agreed) for (agreed,), _ in self._reader.take()), default=0)

    def _stop(self, runner: Any, number: int, validating: bool = False) -> None:
        hook = next((hook for hook in runner.hooks if isinstance(hook, ResumableCheckpointHook)), None)
        name, begin, status = signal.Signals(number).name, time.monotonic(), _EXIT[signal.Signals(number)]
        if hook is not None:
            try:
                hook.save_interrupted(runner, validating)
                runner.logger.warning(
                    f'{name}: stopped at epoch {runner.epoch + 1}, iteration {runner.iter + (not validating)}, and '
                    f'wrote {INTERRUPTED} in {time.monotonic() - begin:.1f} s. {resume_command(runner.cfg)}'
                )
            except OSError as error:
                runner.logger.error(f'{name}: stopped without a new checkpoint: {error}')
                status = 1
        restore_handlers()
        raise SystemExit(status)
