"""Values of a config that cannot be right: of another type than an argument's annotation, or out of range."""

import logging
import math
import multiprocessing
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from inspect import Parameter
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import torch
from mmengine.runner.priority import Priority
from torch import distributed


class Argument(NamedTuple):
    """What a type takes: the default, the annotation, and whether annotations are to be trusted where it is from."""

    default: Any = Parameter.empty
    kind: Any = Any
    exact: bool = True


def fits(value: Any, kind: Any, exact: bool = True) -> bool:
    """Return whether a value of a config may be meant for an annotation; True for annotations that are unusual.

    Lists, tuples and dicts are not told apart. Unless ``exact``, numbers, lists of them and None are not either.
    """
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return any(fits(value, part, exact) for part in parts)
    if origin is Literal:
        return value in parts
    if kind in (None, NoneType):
        return value is None
    if value is None:
        return not exact or kind is Any
    if isinstance(value, (list, tuple, dict)) and not exact:
        return True
    if origin is bool or isinstance(value, bool):
        return isinstance(value, bool) and origin not in (int, float, str)
    if origin in (int, float):
        is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return isinstance(value, (int, float)) and (is_whole or origin is float or not exact)
    if origin in (str, torch.Tensor):
        return isinstance(value, origin)
    if not isinstance(origin, type) or not issubclass(origin, (Mapping, Sequence)):
        return True
    if not isinstance(value, (list, tuple)):
        return isinstance(value, dict) or not (exact or isinstance(value, str))
    if issubclass(origin, tuple) and len(parts) > 1 and Ellipsis not in parts:
        return len(value) == len(parts) and all(map(fits, value, parts))
    return issubclass(origin, Mapping) or all(fits(part, parts[0], exact=False) for part in value if parts)


def check_type(path: str, value: Any, arguments: Iterable[Argument]) -> None:
    """Raise a ValueError if the value fits none of the arguments that it may be meant for.

    Without an annotation, or with one that the default contradicts, only bools are known, by their default.
    """
    names = []
    for default, kind, exact in arguments:
        if kind in (Parameter.empty, Any) or not (default in (None, Parameter.empty) or fits(default, kind)):
            kind, exact = bool if isinstance(default, bool) else Any, False
        if value is default or fits(value, kind, exact):
            return
        names.append(kind.__name__ if isinstance(kind, type) else str(kind).replace('typing.', ''))
    if names:
        raise ValueError(f'{path}={value!r} must be {" or ".join(names)}')


def _level(value: Any) -> bool:
    return isinstance(value, int) or isinstance(logging.getLevelName(value), int)


def _usable_folder(value: str) -> bool:
    return bool(value.strip()) and not any(path.is_file() for path in (Path(value), *Path(value).parents))


def _ordered(values: Any) -> bool:
    return not isinstance(values, (list, tuple)) or list(values) == sorted(values)


def _each(test: Callable[[float], bool]) -> Callable[[Any], bool]:
    """Make a test of a number, or of each number in a list."""

    def passes(value: Any) -> bool:
        values = value if isinstance(value, (list, tuple)) else [value]
        return all(test(number) for number in values if isinstance(number, (int, float)))

    return passes


# Ends of paths, what must be there, and a test of it; annotations see to the types.
_RULES = [
    (re.compile(rf'(?:.*\.)?(?:{keys})'), text, test)
    for keys, text, test in (
        ('max_epochs|max_iters|batch_size|base_batch_size|val_interval|accumulative_counts|T_max|prefetch_factor|'
         'num_classes|num_layers|num_heads|embed_dims|in_channels|patch_size|img_size',
         'a whole number, at least 1', _each(lambda n: 1 <= n < math.inf and n == int(n))),
        ('interval|max_keep_ckpts', 'at least 1, or -1', _each(lambda n: 1 <= n < math.inf or n == -1)),
        ('num_workers|weight_decay|begin|val_begin|eta_min|timeout|opencv_num_threads|resource_limit|\\w*_mult',
         'at least 0', _each(lambda n: 0 <= n < math.inf)),
        ('lr|max_norm|data_preprocessor.std', 'above 0', _each(lambda n: 0 < n < math.inf)),
        ('scale', 'other than 0', _each(lambda n: n != 0)),
        ('drop_rate|drop_path_rate|attn_drop_rate|betas', 'at least 0 and below 1',
         _each(lambda n: 0 <= n < 1)),
        ('prob|\\w+_prob', 'between 0 and 1', _each(lambda n: 0 <= n <= 1)),
        ('start_factor', 'above 0 and at most 1', _each(lambda n: 0 < n <= 1)),
        ('end_factor', 'between 0 and 1', _each(lambda n: 0 <= n <= 1)),
        ('milestones|\\w+_range', 'in ascending order', _ordered),
        ('randomness.seed', 'from 0 to 4294967295', _each(lambda n: 0 <= n < 2**32)),
    )
] + [
    (re.compile(key), text, test)
    for key, text, test in (
        (r'(custom|default)_hooks\..*priority', f'an integer or one of {", ".join(Priority.__members__)}',
         lambda v: isinstance(v, int) or v in Priority.__members__),
        ('log_level', 'a level such as INFO', _level),
        ('work_dir', 'a folder or the name of a new one', _usable_folder),
        ('default_scope', 'an installed library such as mmpretrain', lambda v: not v or bool(find_spec(v))),
        ('env_cfg.mp_cfg.mp_start_method', f'one of {multiprocessing.get_all_start_methods()}',
         lambda v: v in multiprocessing.get_all_start_methods()),
        ('env_cfg.dist_cfg.backend', f'one of {distributed.Backend.backend_list[1:]}',
         lambda v: v in (*distributed.Backend.backend_list, 'smddp', 'hccl', 'cncl', 'mccl')),
    )
]  # fmt: skip


def check_range(path: str, value: Any) -> None:
    """Raise a ValueError if the value at a path of a config is out of range."""
    for keys, text, test in _RULES:
        if value is not None and keys.fullmatch(path) and not test(value):
            raise ValueError(f'{path}={value!r} must be {text}')
