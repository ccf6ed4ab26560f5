"""Logging that does not make the host wait for the device in every step.

mmengine turns every loss into a Python number in the step that produced it. On a GPU that waits until the device has
caught up, and the next step starts late. Here the numbers stay where they are until they are read: by the logger at its
interval, for a checkpoint, at the end of an epoch. The logs are the same.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import HistoryBuffer, MessageHub
from torch import Tensor

from randsac_mm.registry import register

_MAX_STEPS = 1000  # pending steps; a few bytes of device memory each


class DeferredHistory(HistoryBuffer):
    """``HistoryBuffer`` whose newest values may still be on the device: any look at it fetches them first.

    Copies and pickles are plain ``HistoryBuffer`` objects, so that checkpoints do not depend on this class.

    Args:
        history: The values so far.
        owner: Has the pending values and appends them by :meth:`extend`.
    """

    def __init__(self, history: HistoryBuffer, owner: 'DeferredScalars') -> None:
        self.owner = owner
        super().__init__(*history.data, max_length=history.max_length)

    # mmengine reads and writes these two names in all its methods.
    @property
    def _log_history(self) -> np.ndarray:
        self.owner.fetch()
        return self._values

    @_log_history.setter
    def _log_history(self, values: np.ndarray) -> None:
        self._values = values

    @property
    def _count_history(self) -> np.ndarray:
        self.owner.fetch()
        return self._counts

    @_count_history.setter
    def _count_history(self, counts: np.ndarray) -> None:
        self._counts = counts

    def extend(self, values: Sequence[float]) -> None:
        """Append values, each with a count of 1, as so many calls of ``update``."""
        self._values = np.append(self._values, values)[-self.max_length :]
        self._counts = np.append(self._counts, np.ones(len(values), dtype=self._counts.dtype))[-self.max_length :]

    def __reduce_ex__(self, protocol: int) -> Any:  # copies, too, are made by it
        return HistoryBuffer, (self._log_history, self._count_history, self.max_length)


class DeferredScalars:
    """Scalars of many steps that stay on the device and are moved to a message hub together.

    Args:
        hub: Where the values go.
        check: Called after a transfer with (iteration, key, value) of everything that was moved, in order.
        max_steps: After so many calls of :meth:`add` without a reader the values are moved all the same.

    Example:
        >>> hub = MessageHub.get_instance('doctest')
        >>> scalars = DeferredScalars(hub)
        >>> for step in range(3):
        ...     scalars.add({'train/loss': torch.tensor(float(step))}, step)
        >>> len(scalars), hub.get_scalar('train/loss').mean().item(), len(scalars)
        (2, 1.0, 0)
    """

    def __init__(
        self,
        hub: MessageHub,
        check: Callable[[list[tuple[int, str, float]]], None] = lambda moved: None,
        max_steps: int = _MAX_STEPS,
    ) -> None:
        self.hub = hub
        self.check = check
        self.max_steps = max_steps
        self._rows: list[tuple[int, list[str], Tensor]] = []
        self._device: torch.device | None = None  # of the first tensor; others are copied there

    def __len__(self) -> int:
        return len(self._rows)

    @torch.no_grad()
    def add(self, values: dict[str, Any], iteration: int) -> None:
        """Keep a copy of one step's values, without waiting for them.

        The first value of a key is read at once, which makes the key known to mmengine.

        Args:
            values: Tensors of one number each, which may be overwritten afterwards. Python numbers go to the hub at
                once.
            iteration: Number of the step, for ``check``.
        """
        row = {}
        for key, value in values.items():
            if not isinstance(value, Tensor):
                self.hub.update_scalar(key, value)
            elif getattr(self.hub.log_scalars.get(key), 'owner', None) is self:
                row[key] = value
            else:
                self.hub.update_scalar(key, value)
                history = self.hub.log_scalars[key]
                self.hub.log_scalars[key] = DeferredHistory(history, self)
                self.check([(iteration, key, history.current().item())])
        if row:
            self._device = self._device or next(iter(row.values())).device
            exact = torch.float32 if self._device.type == 'mps' else torch.float64  # any loss, any count
            numbers = [
                v.reshape(()).to(self._device, exact, non_blocking=self._device.type != 'cpu') for v in row.values()
            ]
            self._rows.append((iteration, list(row), torch.stack(numbers)))
        if len(self._rows) >= self.max_steps:
            self.fetch()

    def fetch(self) -> None:
        """Move everything pending to the hub, in one transfer."""
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        numbers = iter(torch.cat([row for _, _, row in rows]).tolist())
        moved = [(iteration, key, next(numbers)) for iteration, keys, _ in rows for key in keys]
        for name in dict.fromkeys(key for _, key, _ in moved):
            self.hub.log_scalars[name].extend([value for _, key, value in moved if key == name])
        self.check(moved)


@register('HOOKS', everywhere=True)
class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """mmengine's ``RuntimeInfoHook`` without a wait for the device in every step.

    ``default_hooks = dict(runtime_info=dict(type='DeferredRuntimeInfoHook'))``. Losses and the norm of the gradients
    (``clip_grad`` of any optimiser wrapper) stay on the device until their history is read. Every reader (logger,
    checkpoint, other hooks) finds the values of mmengine's hook.

    A loss that is not finite is noticed when it is read, at the latest before a checkpoint is written or the model is
    validated. Then the run stops with an error that names the first such step: weights that have become NaN stay NaN,
    and mmengine would log ``nan`` to the end. Runs in float16 are only warned, because their loss scaling expects such
    steps and skips them.

    Args:
        stop_at_nan: Whether a loss that is not finite ends the run. If not, or if the optimiser wrapper scales the
            loss, a warning names the first step of each such stretch.

    Raises:
        FloatingPointError: In training, if a loss is not finite and ``stop_at_nan`` is set.
    """

    def __init__(self, stop_at_nan: bool = True) -> None:
        self.stop_at_nan = stop_at_nan
        self._scalars: DeferredScalars | None = None
        self._warned = False

    def before_train(self, runner: Any) -> None:
        """Start with nothing pending, and keep the norm of the gradients on the device as well."""
        super().before_train(runner)
        wrappers = runner.optim_wrapper
        # One wrapper, or mmengine's OptimWrapperDict of several.
        wrappers = list(wrappers.values()) if hasattr(wrappers, 'values') else [wrappers]
        stop = self.stop_at_nan and not any(hasattr(wrapper, 'loss_scaler') for wrapper in wrappers)
        self._warned = False
        self._scalars = DeferredScalars(runner.message_hub, lambda moved: self._check(runner, moved, stop))
        for wrapper in wrappers:
            if getattr(wrapper, 'clip_grad_kwargs', None):
                clip = getattr(wrapper.clip_func, 'clip', wrapper.clip_func)  # not the one of an earlier run
                wrapper.clip_func = self._clip_later(runner, clip, f'train/{wrapper.grad_name}')

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Keep a copy of the losses."""
        self._scalars.add({f'train/{key}': value for key, value in (outputs or {}).items()}, runner.iter + 1)

    def after_train_epoch(self, runner: Any) -> None:
        """Fetch what is pending; a checkpoint inside an epoch does so itself, as it copies the histories."""
        self._scalars.fetch()

    def before_val(self, runner: Any) -> None:
        """Fetch what is pending."""
        super().before_val(runner)
        if self._scalars is not None:
            self._scalars.fetch()

    def after_train(self, runner: Any) -> None:
        """Fetch what is pending."""
        self._scalars.fetch()
        super().after_train(runner)

    def _clip_later(self, runner: Any, clip: Callable[..., Tensor | None], key: str) -> Callable[..., None]:
        """Clip as ``clip`` does, but return no norm, which mmengine would read at once."""

        def clip_func(*args: Any, **kwargs: Any) -> None:
            norm = clip(*args, **kwargs)
            if norm is not None:
                self._scalars.add({key: norm}, runner.iter + 1)

        clip_func.clip = clip
        return clip_func

    def _check(self, runner: Any, moved: list[tuple[int, str, float]], stop: bool) -> None:
        """Stop or warn if a loss among (iteration, key, value) is not finite."""
        losses = [entry for entry in moved if 'loss' in entry[1]]
        bad = [entry for entry in losses if not math.isfinite(entry[2])]
        if not bad:
            self._warned = self._warned and not losses
            return
        iteration, key, value = bad[0]
        more = f' (and {len(bad) - 1} more until iteration {bad[-1][0]})' if len(bad) > 1 else ''
        message = f'{key} is {value} in iteration {iteration}{more}'
        if stop:
            raise FloatingPointError(
                f'{message}: the run stops. Resume from an earlier checkpoint with a lower learning rate, a longer '
                'warm-up or optim_wrapper.clip_grad=dict(max_norm=1.0), or ignore it: '
                'default_hooks.runtime_info.stop_at_nan=False'
            )
        if not self._warned:
            runner.logger.warning(f'{message}; shown once until the loss is finite again')
            self._warned = True
