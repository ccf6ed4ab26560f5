"""Record where the host waits for the device."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

_READS = {'_local_scalar_dense', 'is_nonzero', 'equal', 'nonzero', 'masked_select', '_unique2'}
_DRAWS = {'rand', 'randn', 'randint', 'randperm'}


@contextmanager
def record_host_syncs(device: str) -> Iterator[list]:
    """Collect the waits for ``'cuda'``, as PyTorch warns, or on a ``'cpu'`` operations that would wait on a GPU.

    Reading a number just drawn from torch's global generator, which is the host's, is no wait.
    """
    if device == 'cpu':
        found = []
        with _Calls(found), _Operations(found):
            yield found
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
    """Calls that run no operator on a CPU."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (Tensor.cpu, Tensor.tolist):
            self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    """Operators whose result the host needs."""

    def __init__(self, found):
        super().__init__()
        self.found = found
        self.drawn = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix('aten::')
        if name in _READS and args[0] not in self.drawn:
            self.found.append(name)
        result = func(*args, **(kwargs or {}))
        if name in _DRAWS and (kwargs or {}).get('generator') is None:
            self.drawn[result] = True
        return result
