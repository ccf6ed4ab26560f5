"""Steps whose loss or gradients are not finite: skipped, recorded, and after several in a row undone."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import all_reduce, get_rank, is_distributed
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import Tensor

from randsac_mm.engine.delayed import DelayedReader
from randsac_mm.engine.plain import to_plain
from randsac_mm.files import atomic_write
from randsac_mm.registry import register

_RECORDS = 3  # batches of a run that are written, each with the weights
_SPIKE, _WINDOW, _LEAST = 10.0, 1000, 100  # standard deviations, steps that they are of, and fewest of these
ADVICE = (
    'Look at one of these steps with tools/replay.py, then continue with optim_wrapper.clip_grad.max_norm=1.0, or with '
    'a lower optim_wrapper.optimizer.lr and default_hooks.checkpoint.new_schedule=True, or without mixed precision'
)


class NonFiniteError(FloatingPointError):
    """Several steps in a row had a loss or gradients that are not finite."""


class _Step(NamedTuple):
    """What is needed to repeat a step: its number, its batches, and the CPU generator's state before each of them."""

    number: int
    batches: list[tuple[Any, Tensor]]


@register('HOOKS', everywhere=True)
class SkipNonFiniteHook(Hook):
    """Skip steps whose loss or gradients are not finite, before the optimiser sees them.

    ``default_hooks = dict(skip_non_finite=dict(type='SkipNonFiniteHook'))``. The gradients' norm is computed in every
    step, before they are clipped; one that overflows counts as not finite. All processes skip the same steps. Batches
    and weights of the first three are written to ``nan/`` in the work dir, for ``tools/replay.py``. A loss more than 10
    standard deviations above the mean of the last 1,000 is a line in the log.

    On a GPU the fused optimisers of torch skip by themselves (``found_inf``), and the host, which reads the result two
    steps later, never waits. Others make it wait in every step. Optimiser wrappers with an update of their own
    (float16's scaled loss, DeepSpeed) are not watched.

    Args:
        max_in_row: Number of such steps in a row after which the training is ended.

    Raises:
        ValueError: If ``max_in_row`` is not positive.
        NonFiniteError: In training, after ``max_in_row`` such steps, in all processes; see
            :func:`randsac_mm.engine.launch.train`.
    """

    priority = 'LOW'

    def __init__(self, max_in_row: int = 3) -> None:
        if max_in_row < 1:
            raise ValueError(f'max_in_row={max_in_row} must be 1 or more')
        self.max_in_row = max_in_row
        self.skipped = self.in_row = 0

    def before_train(self, runner: Any) -> None:
        """Take over the update of the optimiser wrapper, or of several."""
        self._reader = DelayedReader()
        self._batches: list[tuple[Any, Tensor]] = []  # since the last update
        self._losses: list[Tensor] = []  # since the last update
        self._results: list[Tensor] = []  # of this step: (skipped, loss, norm of the gradients)
        self._recent: list[float] = []
        wrappers = runner.optim_wrapper
        wrappers = wrappers.values() if hasattr(wrappers, 'values') else [wrappers]
        watched = [wrapper for wrapper in wrappers if can_watch(wrapper)]
        for wrapper in watched:
            self._watch(wrapper)
        self._watches = bool(watched)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Keep the batch until it is known whether its step was skipped."""
        if self._watches:
            self._batches.append((data_batch, torch.get_rng_state()))

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Read the results of steps that the device has finished."""
        if not self._results:  # gradients are being accumulated
            return
        self._reader.put(torch.stack(self._results).amax(0), _Step(runner.iter + 1, self._batches))
        self._batches, self._results = [], []
        for (skipped, loss, norm), step in self._reader.take():
            if skipped:
                self._report(runner, step, loss, norm)
            else:
                self.in_row = 0
                self._look_for_spike(runner, step.number, loss)

    def _watch(self, wrapper: OptimWrapper) -> None:
        update, update_weights = wrapper.update_params, wrapper.step

        def update_params(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            self._losses.append(loss.detach())
            update(loss, *args, **kwargs)

        def step(**kwargs: Any) -> None:
            optimizer = wrapper.optimizer
            gradients = [p.grad for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
            loss, self._losses = torch.stack(self._losses).mean().float(), []
            norm = torch.stack(torch._foreach_norm(gradients)).norm().float() if gradients else loss * 0
            skipped = (~(loss + norm).isfinite()).float()
            if is_distributed():
                all_reduce(skipped, 'max')
            self._results.append(torch.stack([skipped, loss, norm]))
            can_skip = getattr(optimizer, '_step_supports_amp_scaling', False)
            if can_skip:
                optimizer.found_inf = skipped
            if can_skip or not skipped:  # otherwise the host waits for a GPU
                update_weights(**kwargs)
            else:
                wrapper._global_step = getattr(wrapper, '_global_step', 0) + 1  # else schedulers would warn

        step._with_counter = True  # a mark of mmengine's schedulers, which have wrapped the method as well
        wrapper.update_params, wrapper.step = update_params, step

    def _report(self, runner: Any, step: _Step, loss: float, norm: float) -> None:
        self.skipped += 1
        self.in_row += 1
        where = ''
        if self.skipped <= _RECORDS:
            try:
                where = f'; its batch: {record_step(runner, step)}'
            except Exception as error:  # a full disk, or data that cannot be prepared again, must not end the run
                where = f'; its batch could not be written: {error}'
        runner.logger.warning(
            f'Step {step.number} skipped: loss {loss:g}, norm of the gradients {norm:g} ({self.in_row} in a row, '
            f'{self.skipped} in all){where}'
        )
        if self.in_row >= self.max_in_row:
            raise NonFiniteError(f'{self.in_row} steps in a row, up to {step.number}, were not finite. {ADVICE}')

    def _look_for_spike(self, runner: Any, number: int, loss: float) -> None:
        if len(self._recent) >= _LEAST:
            mean, deviation = np.mean(self._recent), np.std(self._recent)
            if loss > mean + _SPIKE * deviation:
                runner.logger.warning(
                    f'Step {number}: loss {loss:g}, {(loss - mean) / deviation:.0f} standard deviations above the mean '
                    f'{mean:g} of the last {len(self._recent):,}'
                )
        self._recent = [*self._recent[1 - _WINDOW :], loss]


def can_watch(wrapper: Any) -> bool:
    """Return whether an optimiser wrapper updates the weights as mmengine's ``OptimWrapper`` does."""
    return type(wrapper).step is OptimWrapper.step


def record_step(runner: Any, step: _Step) -> Path:
    """Write batches and weights of a step to ``nan/`` in the work dir, for :func:`randsac_mm.engine.replay.replay`.

    On a GPU the weights are those of two steps later.

    Raises:
        OSError: If it cannot be written.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    rank = get_rank()
    path = Path(runner.work_dir, 'nan', f'iter_{step.number}{f"_rank{rank}" if rank else ""}.pth')
    now, batches = torch.get_rng_state(), []
    for batch, state in step.batches:
        torch.set_rng_state(state)
        prepared = model.data_preprocessor(batch, True)  # draws what it drew in that step
        batches.append({**{k: v for k, v in prepared.items() if k != 'data_samples'}, 'files': find_files(batch)})
    torch.set_rng_state(now)
    content = {'iter': step.number, 'batches': batches, 'state_dict': model.state_dict(), 'random_state': now}
    with atomic_write(path) as temporary:
        torch.save(to_plain(content, 'record', []), temporary)
    return path


def find_files(batch: Any) -> list[str]:
    """Return the files of the images of a batch, as far as its samples name them."""
    samples = batch.get('data_samples') if isinstance(batch, Mapping) else None
    names = (getattr(sample, 'img_path', None) for sample in samples or ())
    return [os.fspath(name) for name in names if name is not None]
