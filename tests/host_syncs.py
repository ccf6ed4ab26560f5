"""Count where the host waits for the device."""

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

_TORCH = str(Path(torch.__file__).parent)
_CUDA_SAYS = 'called a synchronizing CUDA operation'
# Their result's value, or its size, is needed on the host.
_ALWAYS = {
    *('aten::_local_scalar_dense', 'aten::is_nonzero', 'aten::equal', 'aten::nonzero', 'aten::masked_select'),
    *('aten::_unique2', 'aten::unique_dim', 'aten::unique_consecutive', 'aten::bincount'),
}
_INDEXING = {'aten::index', 'aten::index_put', 'aten::index_put_', 'aten::_index_put_impl_'}
_DRAWS = {'aten::rand', 'aten::randn', 'aten::randint', 'aten::randperm'}


class HostSyncs:
    """Hold what :func:`count_host_syncs` has found so far.

    Attributes:
        where: How often each place has waited; ``'mmengine/logging/message_hub.py:343 _get_valid_value'`` is a key.
    """

    def __init__(self) -> None:
        self.where: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Give the number of waits."""
        return sum(self.where.values())

    def add(self) -> None:
        """Count a wait of the code that is being run."""
        self.where[_place(sys._getframe(1))] += 1


@contextmanager
def count_host_syncs(device: str | torch.device | None = None) -> Iterator[HostSyncs]:
    """Count how often the host waits for the device.

    On CUDA it counts what PyTorch's sync debug mode reports, wherever it happens: numbers that are read, copies that
    block, sizes that depend on values. ``torch.cuda.synchronize()`` and waiting for events are no part of that mode.

    A CPU never waits for itself. There it counts what would have waited if the tensors were on a GPU: numbers that are
    read (``item()``, ``float(x)``, ``if x``, ``tolist()``, ``cpu()``), results whose size depends on values
    (``nonzero``, indexing by a boolean mask), and lists that are copied to the device (``x[[2, 0]]``,
    ``torch.tensor(..., device=...)``). Reading a number that was just drawn from torch's global generator is no wait,
    since that one is the host's. What happens inside compiled code, and copies of whole batches, only a GPU shows. Use
    optimisers with ``fused=True``: others keep their step counters on the host, which cannot be told apart here.

    Args:
        device: The device whose waits are meant, only its type counts. Default: CUDA if there is one, else the CPU.

    Yields:
        The counter.

    Raises:
        ValueError: If ``device`` is neither CUDA nor the CPU.

    Example:
        >>> with count_host_syncs('cpu') as counter:
        ...     x = torch.ones(3).sum()
        ...     y = float(x)
        >>> counter.total
        1
    """
    if device is None:
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    kind = torch.device(device).type
    if kind not in ('cuda', 'cpu'):
        raise ValueError(f'device={kind!r}: waits can be counted on cuda, and on cpu as if it were one')
    counter = HostSyncs()
    with _on_cuda(counter) if kind == 'cuda' else _on_cpu(counter):
        yield counter


@contextmanager
def _on_cuda(counter: HostSyncs) -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def count(message: Warning | str, *args: Any, **kwargs: Any) -> None:
            if _CUDA_SAYS in str(message):
                counter.add()
            else:
                show(message, *args, **kwargs)

        warnings.showwarning = count
        warnings.filterwarnings('always', message=f'.*{_CUDA_SAYS}')
        warnings.filterwarnings('ignore', message='Synchronization debug mode is a prototype')
        torch.cuda.set_sync_debug_mode('warn')
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


@contextmanager
def _on_cpu(counter: HostSyncs) -> Iterator[None]:
    with _Calls(counter), _Operations(counter):
        yield


class _Calls(TorchFunctionMode):
    """Count what can be told apart only where Python calls torch: on a CPU nothing is copied."""

    def __init__(self, counter: HostSyncs) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if (
            func in (Tensor.cpu, Tensor.tolist, Tensor.new_tensor)
            or (func in (torch.tensor, torch.as_tensor) and kwargs.get('device') is not None)
            or (func in (Tensor.__getitem__, Tensor.__setitem__) and _has_list(args[1]))
        ):
            self.counter.add()
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):
    """Count operations whose result the host needs."""

    def __init__(self, counter: HostSyncs) -> None:
        super().__init__()
        self.counter = counter
        self.drawn = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        read_of_a_draw = name == 'aten::_local_scalar_dense' and args[0] in self.drawn
        if (
            (name in _ALWAYS and not read_of_a_draw)
            or (name in _INDEXING and _selects_by_mask(args))
            or (name == 'aten::repeat_interleave' and kwargs.get('output_size') is None)
        ):
            self.counter.add()
        result = func(*args, **kwargs)
        if name in _DRAWS and kwargs.get('generator') is None:
            self.drawn[result] = True
        return result


def _has_list(index: Any) -> bool:
    return isinstance(index, list) or (isinstance(index, tuple) and any(isinstance(part, list) for part in index))


def _selects_by_mask(args: tuple) -> bool:
    """Tell whether an index has a boolean mask; one number put there is not counted: it is filled in without a look."""
    if len(args) > 2 and args[2].numel() == 1:
        return False
    return any(part is not None and part.dtype in (torch.bool, torch.uint8) for part in args[1])


def _place(frame: FrameType | None) -> str:
    """Name the innermost line outside of torch and of this file."""
    while frame is not None and frame.f_code.co_filename.startswith((_TORCH, __file__, '<')):
        frame = frame.f_back
    if frame is None:
        return 'torch'
    path = '/'.join(Path(frame.f_code.co_filename).parts[-3:])
    return f'{path}:{frame.f_lineno} {frame.f_code.co_name}'
