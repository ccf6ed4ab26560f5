"""Numbers of a device that the host reads some steps later, so that it need not wait for them."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class DelayedReader:
    """Queue of small tensors and of what the caller knows about each.

    Those of a GPU are copied to the host asynchronously and returned ``steps`` calls later, when the copy has arrived;
    the host waits only if the device is further behind than that. Those of a CPU are returned at once. All processes
    get the same numbers in the same step.
    """

    def __init__(self, steps: int = 2) -> None:
        self._steps = steps
        self._waiting: deque[tuple[Tensor, torch.cuda.Event | None, Any]] = deque()

    def put(self, values: Tensor, about: Any = None) -> None:
        """Append a tensor (n,)."""
        if not values.is_cuda:
            self._waiting.append((values.detach().clone(), None, about))
            return
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values.detach(), non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._waiting.append((host, event, about))

    def take(self) -> Iterator[tuple[list[float], Any]]:
        """Yield numbers, and what was put with them, of all steps that are due, oldest first."""
        while self._waiting and (self._waiting[0][1] is None or len(self._waiting) > self._steps):
            host, event, about = self._waiting.popleft()
            if event is not None:
                event.synchronize()
            yield host.numpy().tolist(), about  # of the host by now
