"""Count where the host waits for the device."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

_OUTSIDE = (str(Path(torch.__file__).parent), __file__, '<')
# Their result's value, or its size, is needed on the host.
_ALWAYS = {'_local_scalar_dense', 'is_nonzero', 'equal', 'nonzero', 'masked_select', 'bincount'}
_ALWAYS |= {'_unique2', 'unique_dim', 'unique_consecutive'}
_INDEXING = {'index', 'index_put', 'index_put_', '_index_put_impl_'}
_DRAWS = {'rand', 'randn', 'randint', 'randperm'}


@contextmanager
def record_host_syncs(device: str) -> Iterator[list]:
    """Collect the places where the host waits for ``'cuda'`` or ``'cpu'``.

    On CUDA these are PyTorch's own warnings. A CPU never waits for itself: there it is what would have waited on a GPU,
    except in compiled code and copies of whole batches. Reading a number just drawn from torch's global generator, the
    host's, is no wait.
    """
    if device == 'cpu':
        with _Calls() as calls, _Operations(calls.places):
            yield calls.places
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('ignore')
        warnings.filterwarnings('always', message='.*called a synchronizing CUDA operation')
        torch.cuda.set_sync_debug_mode('warn')
        try:
            yield caught
        finally:
            torch.cuda.set_sync_debug_mode('default')


class _Calls(TorchFunctionMode):
    """Notes what can be recognised only where Python calls torch: on a CPU nothing is copied."""

    def __init__(self):
        super().__init__()
        self.places = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if (
            func in (Tensor.cpu, Tensor.tolist, Tensor.new_tensor)
            or (func in (torch.tensor, torch.as_tensor) and kwargs.get('device') is not None)
            or (func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[1], list))
        ):
            self.places.append(_place())
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):
    """Notes operations whose result the host needs."""

    def __init__(self, places):
        super().__init__()
        self.places = places
        self.drawn = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix('aten::')
        read_of_a_draw = name == '_local_scalar_dense' and args[0] in self.drawn
        if (
            (name in _ALWAYS and not read_of_a_draw)
            or (name in _INDEXING and _selects_by_mask(args))
            or (name == 'repeat_interleave' and kwargs.get('output_size') is None)
        ):
            self.places.append(_place())
        result = func(*args, **kwargs)
        if name in _DRAWS and kwargs.get('generator') is None:
            self.drawn[result] = True
        return result


def _selects_by_mask(args) -> bool:
    """Return whether an index has a boolean mask; one number put there is filled in without a look."""
    if len(args) > 2 and args[2].numel() == 1:
        return False
    return any(part is not None and part.dtype in (torch.bool, torch.uint8) for part in args[1])


def _place() -> str:
    """Name the innermost line outside of torch and of this file."""
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(_OUTSIDE):
        frame = frame.f_back
    return f'{frame.f_code.co_filename}:{frame.f_lineno}' if frame is not None else 'torch'
