"""Logging without a wait for the device in every step, as mmengine's, which reads every loss at once."""

import math
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import HistoryBuffer, MessageHub
from torch import Tensor

from randsac_mm.engine.non_finite import SkipNonFiniteHook, can_watch
from randsac_mm.registry import register

_MAX_PENDING = 1000  # numbers of one history; a few hundred bytes of device memory each


class DeferredHistory(HistoryBuffer):
    """``HistoryBuffer`` whose newest values may still be on the device; reading or copying it fetches them.

    Raises:
        FloatingPointError: When values are fetched, if one is not finite and ``finite_name``, its name, is set.
    """

    def __init__(self, history: HistoryBuffer, finite_name: str | None = None) -> None:
        self._pending: list[tuple[int, Tensor]] = []
        self._finite_name = finite_name
        super().__init__(*history.data)

    # mmengine reads and writes these two names in all its methods.
    @property
    def _log_history(self) -> np.ndarray:
        self.fetch()
        return self._values

    @_log_history.setter
    def _log_history(self, values: np.ndarray) -> None:
        self._values = values

    @property
    def _count_history(self) -> np.ndarray:
        self.fetch()
        return self._counts

    @_count_history.setter
    def _count_history(self, counts: np.ndarray) -> None:
        self._counts = counts

    def add(self, value: Tensor, iteration: int) -> None:
        """Append a copy of a tensor of one number, of some iteration, without waiting for it."""
        self._pending.append((iteration, value.detach().reshape(()).clone()))
        if len(self._pending) == _MAX_PENDING:
            self.fetch()

    def fetch(self) -> None:
        """Append everything pending that is finite, in one transfer."""
        if not self._pending:
            return
        iterations, tensors = zip(*self._pending, strict=True)
        self._pending = []
        values = torch.stack(tensors).tolist()
        every = np.append(self._values, values)
        counts = np.append(self._counts, np.ones(len(values), self._counts.dtype))
        kept = np.isfinite(every)
        kept[-1] |= not kept.any()  # mmengine cannot average nothing
        self._values, self._counts = every[kept][-self.max_length :], counts[kept][-self.max_length :]
        for iteration, value in zip(iterations, values, strict=True) if self._finite_name else ():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f'{self._finite_name} is {value} in iteration {iteration}. Resume from an earlier checkpoint, with '
                    'optim_wrapper.clip_grad.max_norm=1.0, or with default_hooks.checkpoint.new_schedule=True and a '
                    'lower optim_wrapper.optimizer.lr'
                )

    def __reduce_ex__(self, protocol: int) -> Any:  # copies, too, are made by it
        return HistoryBuffer, (self._log_history, self._count_history, self.max_length)


@register('HOOKS', everywhere=True)
class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """mmengine's ``RuntimeInfoHook`` without a wait for the device in every step.

    ``default_hooks = dict(runtime_info=dict(type='DeferredRuntimeInfoHook'))``. Losses and the norm of the gradients
    (``clip_grad``) stay on the device until a log line, a checkpoint or another hook reads their history. Those that
    are not finite are left out. Such a loss ends the run when it is read, unless its step is skipped, by
    :class:`~randsac_mm.engine.SkipNonFiniteHook` or an optimiser wrapper that scales the loss (float16).

    Raises:
        FloatingPointError: In training, with the first iteration whose loss is not finite.
    """

    def before_train(self, runner: Any) -> None:
        """Keep the norm of the gradients on the device as well."""
        super().before_train(runner)
        wrappers = runner.optim_wrapper
        # One wrapper, or mmengine's OptimWrapperDict of several.
        wrappers = list(wrappers.values()) if hasattr(wrappers, 'values') else [wrappers]
        hooked = any(isinstance(hook, SkipNonFiniteHook) for hook in runner.hooks)
        skipped = (hasattr(wrapper, 'loss_scaler') or (hooked and can_watch(wrapper)) for wrapper in wrappers)
        self._must_be_finite = not all(skipped)
        for wrapper in wrappers:
            if getattr(wrapper, 'clip_grad_kwargs', None):
                self._defer_norm(runner, wrapper)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Keep a copy of the losses, the mean over all processes."""
        for key, value in _average(outputs or {}).items():
            self._add(runner, f'train/{key}', value)

    def after_train(self, runner: Any) -> None:
        """Fetch what is pending."""
        for history in runner.message_hub.log_scalars.values():
            if isinstance(history, DeferredHistory):
                history.fetch()
        super().after_train(runner)

    def _defer_norm(self, runner: Any, wrapper: Any) -> None:
        clip, key = wrapper.clip_func, f'train/{wrapper.grad_name}'

        def clip_func(*args: Any, **kwargs: Any) -> None:  # a norm that it returned mmengine would read at once
            norm = clip(*args, **kwargs)
            if norm is not None:
                self._add(runner, key, norm)

        wrapper.clip_func = clip_func

    def _add(self, runner: Any, key: str, value: Any) -> None:
        hub: MessageHub = runner.message_hub
        if not isinstance(value, Tensor):
            hub.update_scalar(key, value)
            return
        if not isinstance(hub.log_scalars.get(key), DeferredHistory):
            hub.update_scalar(key, 0)  # makes the key known to mmengine; the number is dropped
            values, counts = hub.log_scalars[key].data
            finite_name = key if 'loss' in key and self._must_be_finite else None
            hub.log_scalars[key] = DeferredHistory(HistoryBuffer(values[:-1], counts[:-1]), finite_name)
        hub.log_scalars[key].add(value, runner.iter + 1)


def _average(outputs: dict[str, Any]) -> dict[str, Any]:
    """Average floating-point tensors of one number over all processes, whose keys are the same, in one exchange."""
    found = {key: value for key, value in outputs.items() if isinstance(value, Tensor) and value.is_floating_point()}
    if not found or get_world_size() == 1:
        return outputs
    means = torch.stack([value.detach().reshape(()).float() for value in found.values()])
    all_reduce(means, 'mean')
    return {**outputs, **dict(zip(found, means, strict=True))}
