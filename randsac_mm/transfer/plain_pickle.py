"""Pickles read as data: nothing that a file names is imported or called; :data:`_BUILDERS` has all that is known."""

import pickletools
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

MARK = '__randsac_mm__'  # key of the dictionaries that stand for arrays, HistoryBuffer and Counter
_MAX_COST = 500_000  # opcodes, those that make objects five times: at most a second
_MAX_WAITING = 10_000  # values on the stack when a container begins: nested too deep
_MAX_LEVELS = 100  # of containers in containers
_MAX_ENTRIES = 5_000_000  # in all containers; those that are referred to twice count twice
_SCALARS = frozenset((type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size))
_LEAVES = _SCALARS | {bytearray, Tensor, np.ndarray, np.dtype}
_MAPPINGS = (dict, OrderedDict, Counter)
_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
_ARGUMENTS = frozenset(  # opcodes whose argument is the value: numbers, text, bytes
    code.name
    for code in pickletools.opcodes
    if code.arg and code.stack_after and not code.stack_before and code.stack_after[0] is not pickletools.anyobject
)
_MARKED = frozenset(code.name for code in pickletools.opcodes if pickletools.markobject in code.stack_before)
_TAKES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3, 'APPEND': 1, 'SETITEM': 2}  # number of values from the stack
_NEW: dict[str, Callable[[], Any]] = dict(EMPTY_DICT=dict, EMPTY_LIST=list, EMPTY_TUPLE=tuple, EMPTY_SET=set)
_HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'
_COSTLY = frozenset(('REDUCE', 'NEWOBJ', 'BUILD', 'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3', *_NEW))
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}


class NotPlainError(ValueError):
    """Raised if a file has something else than tensors and plain values; the message names it."""


class _Name(str):
    """Name of a class or function in a pickle."""


class _Unfinished:
    """Object whose state follows in the pickle; ``finish`` makes its ``value`` of that."""

    def __init__(self, finish: Callable[[Any], Any]) -> None:
        self.finish, self.value = finish, self


def read_pickle(file: IO[bytes], builders: Mapping[str, Any] = {}, storage: Any = None) -> Any:
    """Read the pickle at the position of a binary file, up to its end, as data.

    ``builders``: functions for further names, which receive the arguments in the pickle; ``storage``: what makes an
    object of a persistent id, which torch's storages have.

    Raises:
        NotPlainError: If it has anything but tensors and plain values, or too much of them.
        Exception: Of any kind, if it is damaged.
    """
    table = {**_BUILDERS, **builders}
    memo: dict[int, Any] = {}
    stack: list[Any] = []
    outer: list[list[Any]] = []  # the stacks below the marks
    cost = 0
    for code, arg, _ in pickletools.genops(file):
        kind = code.name
        cost += 5 if kind in _COSTLY else 1
        if cost > _MAX_COST:
            raise NotPlainError(f'more than {_MAX_COST:,} values')
        if kind in _MARKED:
            items, stack = stack, outer.pop()
        elif kind in _TAKES:
            items, stack[-_TAKES[kind] :] = stack[-_TAKES[kind] :], []
        if kind in _ARGUMENTS:
            stack.append(arg)
        elif kind in ('BINPUT', 'LONG_BINPUT', 'MEMOIZE'):
            memo[len(memo) if arg is None else arg] = stack[-1]
        elif kind in ('BINGET', 'LONG_BINGET'):
            value = memo[arg]  # type: ignore[index]
            stack.append(value.value if isinstance(value, _Unfinished) else value)
        elif kind in _CONSTANTS:
            stack.append(_CONSTANTS[kind])
        elif kind in _NEW:
            if len(stack) > _MAX_WAITING:
                raise NotPlainError(f'more than {_MAX_WAITING:,} unfinished containers')
            stack.append(_NEW[kind]())
        elif kind == 'MARK':
            outer.append(stack)
            stack = []
        elif kind.startswith('TUPLE'):
            stack.append(tuple(items))
        elif kind in ('APPEND', 'APPENDS', 'ADDITEMS', 'SETITEM', 'SETITEMS'):
            _extend(stack[-1], items, kind.rstrip('S'))
        elif kind == 'FROZENSET':
            stack.append(frozenset(_keys(items)))
        elif kind in ('GLOBAL', 'STACK_GLOBAL'):
            parts = arg.split(' ') if arg else [stack.pop(), stack.pop()][::-1]
            name = '.'.join(parts).replace('__builtin__.', 'builtins.').replace('numpy._core.', 'numpy.core.')
            if name not in table and name not in _DTYPES:
                raise NotPlainError(name)
            stack.append(_DTYPES.get(name, _Name(name)))
        elif kind in ('REDUCE', 'NEWOBJ'):
            args, function = stack.pop(), stack.pop()
            if type(function) is not _Name or type(args) is not tuple:
                raise NotPlainError(f'a call of a {type(function).__name__}')
            stack.append(table[function](*args))
        elif kind == 'BUILD':
            state = stack.pop()
            stack.append(_build(stack.pop(), state))
        elif kind == 'BINPERSID' and storage is not None:
            stack.append(storage(*stack.pop()))
        elif kind not in ('PROTO', 'FRAME', 'STOP'):
            raise NotPlainError(f"pickle's {kind}")
    (value,) = stack
    _measure(value, {}, 0)
    return value


def _extend(target: Any, items: list[Any], kind: str) -> None:
    if kind == 'SETITEM' and type(target) in _MAPPINGS:
        target.update(zip(_keys(items[::2]), items[1::2], strict=True))
    elif kind == 'APPEND' and type(target) is list:
        target.extend(items)
    elif kind == 'ADDITEM' and type(target) is set:
        target.update(_keys(items))
    else:
        raise NotPlainError(f'entries of a {type(target).__name__}')


def _keys(items: Iterable[Any]) -> Iterable[Any]:
    """Yield what may be a key; to hash tuples in tuples may take for ever."""
    for item in items:
        if not all(type(part) in _SCALARS for part in (item if type(item) is tuple else (item,))):
            raise NotPlainError(f'a {type(item).__name__} as key')
        yield item


def _build(target: Any, state: Any) -> Any:
    """Return an object in the state that the pickle describes."""
    if isinstance(target, _Unfinished):
        target.value = target.finish(state)
        return target.value
    if isinstance(target, OrderedDict):  # of torch, with versions of modules
        metadata = vars(target)['_metadata'] = state['_metadata']
        if all(isinstance(value, dict) for value in (metadata, *metadata.values())):
            return target
    elif isinstance(target, np.dtype) and state[1] in '<|' and state[3] is None:
        return target
    raise NotPlainError(f'a state of a {type(target).__name__}')


def _history(state: dict) -> dict[str, Any]:
    values, counts = (torch.from_numpy(state[key]) for key in ('_log_history', '_count_history'))
    return {MARK: 'history', 'values': values, 'counts': counts, 'max_length': state['max_length']}


def _measure(value: Any, found: dict[int, tuple[int, int]], level: int) -> tuple[int, int]:
    """Count the entries and levels of a container, by id in ``found``; refuse too many and what is not plain."""
    children = value
    if type(value) in _LEAVES:
        return 1, 0
    if type(value) in _MAPPINGS:
        children = [*value.values(), getattr(value, '_metadata', None)]
    elif type(value) not in (list, tuple, set, frozenset):
        raise NotPlainError(str(value) if isinstance(value, _Name) else f'an unfinished {type(value).__name__}')
    if id(value) not in found and level <= _MAX_LEVELS:
        inner = [_measure(child, found, level + 1) for child in children if type(child) not in _LEAVES]
        found[id(value)] = 1 + len(value) + sum(n for n, _ in inner), 1 + max((n for _, n in inner), default=0)
    if level > _MAX_LEVELS or found[id(value)] > (_MAX_ENTRIES, 0) or found[id(value)][1] > _MAX_LEVELS:
        raise NotPlainError(f'more than {_MAX_ENTRIES:,} entries or {_MAX_LEVELS} levels, or a container in itself')
    return found[id(value)]


def _dtype(name: str, *_: Any) -> np.dtype:
    if not re.fullmatch(r'b1|[iufc]\d{1,2}|[SU]\d{1,6}', name):
        raise NotPlainError(f'numpy.dtype({name[:20]!r})')
    return np.dtype(name)


def _array(data: Any, dtype: Any, shape: Any, order: Any = 'C') -> np.ndarray:
    if not isinstance(dtype, np.dtype):
        raise NotPlainError('an array without numpy.dtype')
    data = data.encode('latin1') if isinstance(data, str) else data  # text: from Python 2
    return np.frombuffer(data, dtype).copy().reshape(shape, order=order)


def _ordered(pairs: Iterable[Any] = ()) -> OrderedDict[Any, Any]:
    keys, values = zip(*pairs, strict=True) if pairs else ((), ())
    return OrderedDict(zip(_keys(keys), values, strict=True))


def _method(owner: Any, name: str) -> None:
    """Leave out the reference of HistoryBuffer to one of its own methods; no other use of getattr is known."""
    if type(owner) is not _Name or owner != _HISTORY or name.startswith('_'):
        raise NotPlainError('builtins.getattr')


# What becomes of a name and arguments, which may be any values.
_BUILDERS: dict[str, Any] = {
    'collections.OrderedDict': _ordered,
    'collections.defaultdict': lambda *_: {},
    'collections.Counter': lambda counts: Counter({**counts}),
    'builtins.set': lambda items: set(_keys(items)),
    'builtins.complex': lambda real, imaginary: complex(real, imaginary),
    'builtins.bytes': lambda: b'',
    'builtins.bytearray': lambda data=b'': bytearray(memoryview(data)),
    '_codecs.encode': lambda text, encoding: text.encode({'latin1': 'latin1'}[encoding]),
    'torch.Size': lambda sizes: torch.Size(sizes),
    'torch.device': lambda *args: torch.device(*args),
    'numpy.dtype': _dtype,
    'numpy.core.multiarray._reconstruct': lambda *_: _Unfinished(lambda s: _array(s[4], s[2], s[1], 'CF'[s[3]])),
    'numpy.core.multiarray.scalar': lambda dtype, data: _array(data, dtype, ()).item(),
    'numpy.core.numeric._frombuffer': _array,
    _HISTORY: lambda: _Unfinished(_history),
    'mmengine.config.config.ConfigDict': lambda items: {**items},
    'argparse.Namespace': lambda: _Unfinished(lambda s: {**s}),
    'pathlib.PosixPath': lambda *parts: str(PurePosixPath(*parts)),
    'pathlib.WindowsPath': lambda *parts: '\\'.join(parts),
    'builtins.getattr': _method,
    **dict.fromkeys(f'{_HISTORY}.{name}' for name in ('min', 'max', 'current', 'mean')),
    **dict.fromkeys(('builtins.list', 'builtins.dict', 'builtins.int', 'numpy.ndarray')),  # as arguments
    'deepspeed.runtime.zero.config.ZeroStageEnum': lambda value: value,
    'deepspeed.runtime.fp16.loss_scaler.LossScaler': lambda: _Unfinished(lambda s: {**s}),
    'deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler': lambda: _Unfinished(lambda s: {**s}),
}
