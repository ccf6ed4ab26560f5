"""Count where the host waits for the device."""

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


@contextmanager
def count_host_syncs(device: str) -> Iterator[Counter[str]]:
    """Count how often each place, by ``'mmengine/logging/message_hub.py:343 name'``, waits for ``'cuda'`` or ``'cpu'``.

    On CUDA it counts what PyTorch's sync debug mode reports: numbers that are read, copies that block, sizes that
    depend on values. A CPU never waits for itself: there it counts what would have waited on a GPU, except in compiled
    code and copies of whole batches. Reading a number just drawn from torch's global generator, the host's, is no wait.
    """
    places: Counter[str] = Counter()
    if device == 'cuda':
        with _on_cuda(places):
            yield places
    else:
        with _Calls(places), _Operations(places):
            yield places


@contextmanager
def _on_cuda(places: Counter[str]) -> Iterator[None]:
    with warnings.catch_warnings():
        show = warnings.showwarning

        def count(message, *args, **kwargs):
            if _CUDA_SAYS in str(message):
                places[_place()] += 1
            else:
                show(message, *args, **kwargs)

        warnings.showwarning = count
        warnings.filterwarnings('always', message=f'.*{_CUDA_SAYS}')
        warnings.filterwarnings('ignore', message='Synchronization debug mode is a prototype')
        torch.cuda.set_sync_debug_mode('warn')
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode('default')


class _Calls(TorchFunctionMode):
    """Counts what can be recognised only where Python calls torch: on a CPU nothing is copied."""

    def __init__(self, places):
        super().__init__()
        self.places = places

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if (
            func in (Tensor.cpu, Tensor.tolist, Tensor.new_tensor)
            or (func in (torch.tensor, torch.as_tensor) and kwargs.get('device') is not None)
            or (func in (Tensor.__getitem__, Tensor.__setitem__) and _has_list(args[1]))
        ):
            self.places[_place()] += 1
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):
    """Counts operations whose result the host needs."""

    def __init__(self, places):
        super().__init__()
        self.places = places
        self.drawn = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name
        read_of_a_draw = name == 'aten::_local_scalar_dense' and args[0] in self.drawn
        if (
            (name in _ALWAYS and not read_of_a_draw)
            or (name in _INDEXING and _selects_by_mask(args))
            or (name == 'aten::repeat_interleave' and kwargs.get('output_size') is None)
        ):
            self.places[_place()] += 1
        result = func(*args, **kwargs)
        if name in _DRAWS and kwargs.get('generator') is None:
            self.drawn[result] = True
        return result


def _has_list(index) -> bool:
    return any(isinstance(part, list) for part in (index if isinstance(index, tuple) else (index,)))


def _selects_by_mask(args) -> bool:
    """Return whether an index has a boolean mask; one number put there is filled in without a look."""
    if len(args) > 2 and args[2].numel() == 1:
        return False
    return any(part is not None and part.dtype in (torch.bool, torch.uint8) for part in args[1])


def _place() -> str:
    """Name the innermost line outside of torch and of this file."""
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith((_TORCH, __file__, '<')):
        frame = frame.f_back
    if frame is None:
        return 'torch'
    path = '/'.join(Path(frame.f_code.co_filename).parts[-3:])
    return f'{path}:{frame.f_lineno} {frame.f_code.co_name}'
