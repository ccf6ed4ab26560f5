"""Logging that does not make the host wait for the device in every step.

mmengine turns every loss into a Python number in the step that produced it. On a GPU that waits until the device has
caught up, and the next step starts late. Here the numbers stay where they are until somebody reads them: the logger at
its interval, a checkpoint, the end of an epoch. What is read, and therefore every log, is the same.
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
_KINDS = {torch.bool: bool, **dict.fromkeys((torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64), int)}


class DeferredHistory(HistoryBuffer):
    """Be a ``HistoryBuffer`` whose newest values may still be on their way: any look at it fetches them first.

    Copies and pickles are plain ``HistoryBuffer`` objects, so that checkpoints do not depend on this class.

    Args:
        history: The values so far.
        owner: Holds the pending values and appends them by :meth:`extend`.
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

    def extend(self, values: Sequence[bool | int | float]) -> None:
        """Append values, each with a count of 1, as so many calls of ``update``."""
        self._values = np.append(self._values, values)[-self.max_length :]
        self._counts = np.append(self._counts, np.ones(len(values), dtype=self._counts.dtype))[-self.max_length :]

    def plain(self) -> HistoryBuffer:
        """Copy everything, the pending values included, into mmengine's own class."""
        return HistoryBuffer(self._log_history.copy(), self._count_history.copy(), self.max_length)

    def __deepcopy__(self, memo: dict) -> HistoryBuffer:
        return self.plain()

    def __reduce_ex__(self, protocol: int) -> Any:
        plain = self.plain()
        return HistoryBuffer, (*plain.data, plain.max_length)


class DeferredScalars:
    """Keep scalars of many steps on the device and move them to a message hub together.

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
        check: Callable[[list[tuple[int, str, float]]], None] | None = None,
        max_steps: int = _MAX_STEPS,
    ) -> None:
        self.hub = hub
        self.check = check
        self.max_steps = max_steps
        self._rows: list[tuple[int, tuple[str, ...], list[type], Tensor]] = []

    def __len__(self) -> int:
        return len(self._rows)

    @torch.no_grad()
    def add(self, values: dict[str, Any], iteration: int) -> None:
        """Take a snapshot of one step's values, without waiting for them.

        The first value of a key is read at once, which tells mmengine about the key.

        Args:
            values: Tensors of one number each, which may be overwritten afterwards. Numbers that are on the host
                already go to the hub at once.
            iteration: Number of the step, for ``check``.
        """
        known = {}
        for key, value in values.items():
            if not isinstance(value, Tensor):
                self.hub.update_scalar(key, value)
            elif getattr(self.hub.log_scalars.get(key), 'owner', None) is self:
                known.setdefault(value.device, {})[key] = value
            else:
                self._begin(key, value, iteration)
        for row in known.values():
            kinds = [_KINDS.get(value.dtype, float) for value in row.values()]
            numbers = _same_type([value.detach().reshape(()) for value in row.values()])
            self._rows.append((iteration, tuple(row), kinds, torch.stack(numbers)))
        if len(self._rows) >= self.max_steps:
            self.fetch()

    def fetch(self) -> None:
        """Move everything pending to the hub: one transfer for each device."""
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        numbers: dict[torch.device, Any] = {}
        for device in {row[3].device for row in rows}:
            numbers[device] = iter(torch.cat(_same_type([row[3] for row in rows if row[3].device == device])).tolist())
        moved = [
            (iteration, key, kind(next(numbers[values.device])))
            for iteration, keys, kinds, values in rows
            for key, kind in zip(keys, kinds, strict=True)
        ]
        columns: dict[str, list] = {}
        for _, key, value in moved:
            columns.setdefault(key, []).append(value)
        for key, column in columns.items():
            self.hub.log_scalars[key].extend(column)
        if self.check is not None:
            self.check(moved)

    def _begin(self, key: str, value: Tensor, iteration: int) -> None:
        self.hub.update_scalar(key, value)
        history = self.hub.log_scalars[key]
        self.hub.log_scalars[key] = DeferredHistory(history, self)
        if self.check is not None:
            self.check([(iteration, key, history.current().item())])


@register('HOOKS', everywhere=True)
class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """Do what mmengine's ``RuntimeInfoHook`` does, without a wait for the device in every step.

    ``default_hooks = dict(runtime_info=dict(type='DeferredRuntimeInfoHook'))``. Losses and the norm of the gradients
    (``clip_grad`` of any optimiser wrapper) stay on the device until their history is read. Reading is what moves
    them, so whoever reads gets what mmengine's hook would have given: logger, checkpoint, other hooks.

    A loss that is not finite is noticed when it is read, and at the latest before a checkpoint is written or the
    model is validated. By default the run stops then, with an error that names the first such step: weights that have
    become NaN stay NaN, and mmengine would log ``nan`` to the end. Runs in float16 are only warned, because their loss
    scaling expects such steps and skips them.

    Args:
        stop_at_nan: Whether a loss that is not finite ends the run. If not, or if the optimiser wrapper scales the
            loss, a warning names the first step of each such stretch.

    Raises:
        FloatingPointError: In training, if a loss is not finite and ``stop_at_nan`` holds.
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
        scaled = any(hasattr(wrapper, 'loss_scaler') for wrapper in wrappers)
        self._warned = False
        self._scalars = DeferredScalars(
            runner.message_hub, lambda moved: self._check(runner, moved, self.stop_at_nan and not scaled)
        )
        for wrapper in wrappers:
            if getattr(wrapper, 'clip_grad_kwargs', None) and not isinstance(wrapper.clip_func, _ClipLater):
                wrapper.clip_func = _ClipLater(wrapper.clip_func)
            if isinstance(getattr(wrapper, 'clip_func', None), _ClipLater):
                wrapper.clip_func.tell = self._teller(runner, f'train/{wrapper.grad_name}')

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Take a snapshot of the losses."""
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

    def _teller(self, runner: Any, key: str) -> Callable[[Tensor], None]:
        return lambda norm: self._scalars.add({key: norm}, runner.iter + 1)

    def _check(self, runner: Any, moved: list[tuple[int, str, float]], stop: bool) -> None:
        """Stop or warn if a loss among (iteration, key, value) is not finite."""
        losses = [entry for entry in moved if 'loss' in entry[1]]
        bad = [entry for entry in losses if not math.isfinite(entry[2])]
        if not bad:
            self._warned = self._warned and not losses
            return
        iteration, key, value = bad[0]
        more = f' (and {len(bad) - 1} more such value(s) until iteration {bad[-1][0]})' if len(bad) > 1 else ''
        message = f'{key} is {value} in iteration {iteration}{more}'
        if stop:
            raise FloatingPointError(
                f'{message}: the run stops, since weights that are not finite stay so. Resume from a checkpoint before '
                'that iteration with a lower learning rate, a longer warm-up or '
                'optim_wrapper.clip_grad=dict(max_norm=1.0). '
                'default_hooks.runtime_info.stop_at_nan=False goes on all the same'
            )
        if not self._warned:
            runner.logger.warning(f'{message}; this is said once until the loss is finite again')
            self._warned = True


class _ClipLater:
    """Clip gradients as ``clip`` does and hand their norm to ``tell``, as a tensor.

    It returns None, whereupon mmengine's optimiser wrapper logs nothing, and so does not wait.
    """

    def __init__(self, clip: Callable[..., Tensor | None]) -> None:
        self.clip = clip
        self.tell: Callable[[Tensor], None] = lambda norm: None

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        norm = self.clip(*args, **kwargs)
        if norm is not None:
            self.tell(norm)


def _same_type(tensors: list[Tensor]) -> list[Tensor]:
    """Convert tensors of different types to one that holds the numbers of all of them."""
    if len({tensor.dtype for tensor in tensors}) == 1:
        return tensors
    return [tensor.to(torch.float32 if tensor.device.type == 'mps' else torch.float64) for tensor in tensors]
