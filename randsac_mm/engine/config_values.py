"""Values of a config that cannot be right: of another type than an argument's annotation, or out of range."""

import logging
import math
import multiprocessing
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from inspect import Parameter
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import torch
from mmengine.runner.priority import Priority
from torch.distributed import Backend

Argument = tuple[Any, Any, bool]  # default, annotation, and whether annotations are exact where it comes from


def fits(value: Any, kind: Any, exact: bool = True) -> bool:
    """Return whether a value of a config may be meant for an annotation; True for annotations that are unusual.

    Lists, tuples and dicts are treated alike. Unless ``exact``, so are numbers, lists of them and None.
    """
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return any(fits(value, part, exact) for part in parts)
    if origin is Literal:
        return value in parts
    if value is None or kind in (None, NoneType):
        return value is None and (not exact or kind in (None, NoneType, Any))
    if isinstance(value, (list, tuple, dict)) and not exact:
        return True
    if origin is bool or isinstance(value, bool):
        return isinstance(value, bool) and origin not in (int, float, str)
    if origin is int and isinstance(value, float):
        return value.is_integer() or not exact
    if origin in (int, float, str, torch.Tensor):
        return isinstance(value, (int, float) if origin is float else origin)
    if not isinstance(origin, type) or not issubclass(origin, (Mapping, Sequence)) or isinstance(value, dict):
        return True
    if not isinstance(value, (list, tuple)):
        return not exact and not isinstance(value, str)
    if issubclass(origin, tuple) and len(parts) > 1 and Ellipsis not in parts:
        return len(value) == len(parts) and all(map(fits, value, parts))
    return issubclass(origin, Mapping) or not parts or all(fits(part, parts[0], exact=False) for part in value)


def check_type(path: str, value: Any, arguments: Iterable[Argument]) -> None:
    """Raise a ValueError if the value fits none of the arguments that it may be meant for.

    Without an annotation, or with one that the default contradicts, only bools are known, by their default.
    """
    names = []
    for default, kind, exact in arguments:
        if kind is Any or not (default in (None, Parameter.empty) or fits(default, kind)):
            kind, exact = bool if isinstance(default, bool) else Any, False
        if value is default or fits(value, kind, exact):
            return
        names.append(kind.__name__ if isinstance(kind, type) else str(kind).replace('typing.', ''))
    if names:
        raise ValueError(f'{path}={value!r} must be {" or ".join(names)}')


_METHODS, _BACKENDS = multiprocessing.get_all_start_methods(), [*Backend.backend_list[1:], 'hccl', 'cncl', 'mccl']
# Ends of paths, what each number there must be, and a test of it; annotations see to the types.
_NUMBERS = (
    ('max_epochs|max_iters|batch_size|base_batch_size|val_interval|accumulative_counts|T_max|prefetch_factor|'
     'num_classes|num_layers|num_heads|embed_dims|in_channels|patch_size|img_size',
     'a whole number, at least 1', lambda n: 1 <= n < math.inf and n == int(n)),
    ('interval|max_keep_ckpts', 'at least 1, or -1', lambda n: 1 <= n < math.inf or n == -1),
    (r'num_workers|weight_decay|begin|val_begin|eta_min|timeout|opencv_num_threads|resource_limit|\w*_mult',
     'at least 0', lambda n: 0 <= n < math.inf),
    ('lr|max_norm|data_preprocessor.std', 'above 0 and finite', lambda n: 0 < n < math.inf),
    ('drop_rate|drop_path_rate|attn_drop_rate|betas', 'at least 0 and below 1', lambda n: 0 <= n < 1),
    (r'prob|\w+_prob|end_factor', 'between 0 and 1', lambda n: 0 <= n <= 1),
    ('start_factor', 'above 0 and at most 1', lambda n: 0 < n <= 1),
    ('randomness.seed', 'from 0 to 4294967295', lambda n: 0 <= n < 2**32),
)  # fmt: skip
_OTHERS = (
    (r'milestones|\w+_range', 'in ascending order', lambda v: not isinstance(v, (list, tuple)) or [*v] == sorted(v)),
    (r'\w+_hooks\..*priority', f'a number or one of {", ".join(Priority.__members__)}',
     lambda v: isinstance(v, int) or v in Priority.__members__),
    ('log_level', 'a level such as INFO', lambda v: isinstance(v, int) or isinstance(logging.getLevelName(v), int)),
    ('work_dir', 'a folder or the name of a new one',
     lambda v: v.strip() and not any(path.is_file() for path in (Path(v), *Path(v).parents))),
    ('default_scope', 'an installed library such as mmpretrain', lambda v: not v or find_spec(v)),
    ('mp_cfg.mp_start_method', f'one of {", ".join(_METHODS)}', lambda v: v in _METHODS),
    ('dist_cfg.backend', f'one of {", ".join(_BACKENDS)}', lambda v: v in _BACKENDS),
)  # fmt: skip
# What mmengine imports when the first figure is logged, or shortly before.
_PACKAGES = {
    'TensorboardVisBackend': 'tensorboard', 'WandbVisBackend': 'wandb', 'MLflowVisBackend': 'mlflow',
    'ClearMLVisBackend': 'clearml', 'NeptuneVisBackend': 'neptune', 'DVCLiveVisBackend': 'dvclive',
    'AimVisBackend': 'aim',
}  # fmt: skip


def check_range(path: str, value: Any) -> None:
    """Raise a ValueError if the value at a path of a config is out of range, or a type whose package is missing."""
    package = _PACKAGES.get(str(value).rpartition('.')[2]) if path.endswith('.type') else None
    if package and find_spec(package) is None:
        raise ValueError(f'{path}={value!r} needs a package that is missing: pip install {package}, or leave it out')
    values = value if isinstance(value, (list, tuple)) else [value]
    numbers = [number for number in values if isinstance(number, (int, float))]
    for rules, parts in ((_NUMBERS, numbers), (_OTHERS, [] if value is None else [value])):
        for keys, text, test in rules:
            if parts and re.fullmatch(rf'(?:.*\.)?(?:{keys})', path) and not all(map(test, parts)):
                raise ValueError(f'{path}={value!r} must be {text}')
