"""Keys of a config that nothing would read, and values that do not fit, wherever they are in it."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from mmengine import registry as root
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import (
    EpochBasedTrainLoop,
    FlexibleRunner,
    IterBasedTrainLoop,
    LogProcessor,
    Runner,
    TestLoop,
    ValLoop,
)
from mmengine.utils.dl_utils import set_multi_processing
from torch.distributed import init_process_group
from torch.nn import Module
from torch.utils.data import DataLoader

from randsac_mm.engine.config_values import Argument, check_range, check_type

# Keys that no runner takes as an argument but that mmengine or OpenMMLab's libraries look up in a config.
_OTHER_KEYS = {
    'activation_checkpointing', 'auto_scale_lr', 'compile', 'custom_imports', 'efficient_conv_bn_eval',
    'find_unused_parameters', 'launcher', 'load_from', 'model_wrapper_cfg', 'resume', 'runner_type', 'strategy',
    'sync_bn', 'tta_model', 'tta_pipeline', 'work_dir',
}  # fmt: skip
KNOWN_KEYS = _OTHER_KEYS.union(inspect.signature(Runner).parameters, inspect.signature(FlexibleRunner).parameters)
_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')  # mmengine's defaults

# What is built from each part of a config: registries, and the keys that its builder takes out.
_PARTS = {
    'model': (('MODELS', 'TASK_UTILS', 'WEIGHT_INITIALIZERS'), ('init_cfg', 'requires_grad', 'override', 'name')),
    'dataloader': (('DATASETS', 'DATA_SAMPLERS', 'TRANSFORMS', 'FUNCTIONS'), ('num_batch_per_epoch',)),
    'hooks': (('HOOKS', 'DATASETS', 'TRANSFORMS'), ('priority',)),
    'evaluator': (('METRICS', 'EVALUATOR'), ()),
    'wrapper': (('OPTIM_WRAPPERS', 'OPTIMIZERS'), ('constructor', 'paramwise_cfg')),
    'scheduler': (('PARAM_SCHEDULERS',), ('convert_to_iter_based',)),
    'visualizer': (('VISUALIZERS', 'VISBACKENDS'), ()),
    'cfg': (('LOOPS',), ('by_epoch',)),
}
_ALWAYS = frozenset({'type', '_scope_'})


def _looked_up(**kinds: Any) -> Callable:
    """Make a stand-in for code that looks keys up in a dict, and whose arguments they therefore are not."""

    def mmengine() -> None: ...

    mmengine.arguments = {name: Argument(kind=kind) for name, kind in kinds.items()}  # type: ignore[attr-defined]
    return mmengine


_WRAPPER = r'optim_wrapper(?:\.(?!paramwise_cfg|optimizer|clip_grad)\w+)?'
# What reads the dicts that have no type, by their paths.
_UNTYPED = {
    r'\w+_dataloader': DataLoader,
    'val_cfg': ValLoop,
    'test_cfg': TestLoop,
    'log_processor': LogProcessor,
    'randomness': _looked_up(seed=int | None, diff_rank_seed=bool, deterministic=bool),
    'auto_scale_lr': _looked_up(base_batch_size=int, enable=bool),
    'env_cfg': _looked_up(cudnn_benchmark=bool, mp_cfg=dict, dist_cfg=dict, resource_limit=int),
    r'env_cfg\.mp_cfg': set_multi_processing,
    r'env_cfg\.dist_cfg': _looked_up(
        **{**dict.fromkeys(inspect.signature(init_process_group).parameters, Any), 'timeout': float},
        init_backend=str, port=int,
    ),
    rf'{_WRAPPER}\.clip_grad': _looked_up(
        max_norm=float, norm_type=float | str, error_if_nonfinite=bool, foreach=bool | None, clip_value=float
    ),
    r'optim_wrapper\.paramwise_cfg': _looked_up(
        custom_keys=dict, bypass_duplicate=bool, bias_lr_mult=float, bias_decay_mult=float, norm_decay_mult=float,
        flat_decay_mult=float, dwconv_decay_mult=float, dcn_offset_lr_mult=float,
    ),
    r'optim_wrapper\.paramwise_cfg\.custom_keys\..+': _looked_up(lr_mult=float, decay_mult=float,
 lr=float, weight_decay=float, lars_exclude=bool, fix_lr=bool),
}  # fmt: skip


def check_keys(cfg: Config) -> None:
    """Compare every dict of a config with what its type takes, or what reads it if it has none.

    Types that cannot be found, or that pass unknown keys on to others, are left to mmengine; so are values of arguments
    without an annotation. Settings in a model that have no type are compared with the words in the source of its types.

    Raises:
        ValueError: If a key is unknown: its path, its type, and the closest key or all of them; or if a value is of
            another type than the argument, or out of range.
    """
    for key in set(cfg) - KNOWN_KEYS:
        close = get_close_matches(key, KNOWN_KEYS, n=1, cutoff=0.85)
        if close and not key.endswith('_pipeline') and not key.startswith(f'{close[0]}_'):
            raise ValueError(f'the config has {key}, which nothing reads; did you mean {close[0]}?')
    taken_by_runner, _ = _arguments(Runner)
    for key in sorted(KNOWN_KEYS.intersection(cfg)):
        if key in taken_by_runner and cfg[key] is not None:
            check_type(key, cfg[key], [taken_by_runner[key]])
        check_range(key, cfg[key])
        registries, extra = _PARTS.get(key.rpartition('_')[2], ((), ()))
        scope = cfg.get('default_scope') or 'mmengine'
        parts = [
            (path, part, [_find_types(name, registries, scope) for name, scope in types])
            for path, part, types in find_dicts(cfg[key], key, scope)
        ]
        for path, part, found in parts:
            own = found[-1] if found and 'type' in part else _reader_of(path, part, cfg)
            readers = [kind for kinds in found for kind in kinds]
            if not own and isinstance(part.get('type'), str):
                close = get_close_matches(part['type'], _type_names(registries, scope), n=1, cutoff=0.8)
                if close:
                    raise ValueError(f'{path}: there is no type {part["type"]}; did you mean {close[0]}?')
            _check_part(
                path, part, own, readers if key == 'model' else [], extra if own and inspect.isclass(own[0]) else ()
            )
            if re.match(r'model\..*\b(arch|train_cfg|test_cfg)\b', path) and 'type' not in part:
                libraries = {
                    kind.__module__.partition('.')[0] for *_, found in parts for kinds in found for kind in kinds
                }
                words = frozenset().union(*map(_library, libraries))
                for name in sorted(set(part) - words) if libraries else ():
                    raise ValueError(f'{path}: {", ".join(libraries)} do not read {name}; {closest(name, words, ())}')
    for name, hook in (cfg.get('default_hooks') or {}).items():
        if (name not in _HOOKS) if hook is None else (isinstance(hook, dict) and 'type' not in hook):
            known = {*_HOOKS, *cfg.default_hooks} - {name}
            raise ValueError(f'default_hooks.{name} has no type; {closest(name, known)}')


def check_custom_keys(runner: Any) -> None:
    """Compare ``paramwise_cfg.custom_keys`` with the names of the parameters; warn of keys that are part of none.

    Raises:
        ValueError: If a key is part of no name but resembles one.
    """
    custom = ((runner.cfg.get('optim_wrapper') or {}).get('paramwise_cfg') or {}).get('custom_keys') or {}
    names = [f'.{name}' for name, _ in runner.model.named_parameters()] if isinstance(runner.model, Module) else []
    for key in custom if names else ():
        if not any(key in name for name in names):
            parts = {
                '.'.join(name.split('.')[start : start + key.strip('.').count('.') + 1])
                for name in names
                for start in range(1, name.count('.') + 1)
            }
            close = get_close_matches(key.strip('.'), parts, n=1, cutoff=0.8)
            text = f'optim_wrapper.paramwise_cfg.custom_keys: no parameter of the model has {key} in its name'
            if close:
                raise ValueError(f'{text}; did you mean {close[0]}?')
            runner.logger.warning(text)


def _check_part(path: str, part: dict, kinds: list, readers: list, extra: tuple) -> None:
    """Check keys and values of one dict by what its type takes; ``readers`` may take some out before."""
    taken = [_arguments(kind) for kind in kinds]
    known = _ALWAYS.union(extra, *(arguments for arguments, _ in taken))
    takes_more = not taken or any(more for _, more in taken)
    for name in sorted(set(part) - known):
        close = get_close_matches(name, known, n=1, cutoff=0.85)
        if (close if takes_more else kinds) and not any(name in _words(kind) for kind in readers or takes_more * kinds):
            kind = part.get('type', kinds[0])
            kind = getattr(kind, '__name__', kind)
            raise ValueError(f'{path}: {kind} has no {name}; {closest(name, known - _ALWAYS)}')
    for name, value in part.items():
        check_type(f'{path}.{name}', value, [arguments[name] for arguments, _ in taken if name in arguments])
        check_range(f'{path}.{name}', value)


def _reader_of(path: str, part: dict, cfg: Config) -> list[Callable]:
    """Return what reads a dict without a type, if it is known."""
    if path == 'train_cfg' and part:
        return [EpochBasedTrainLoop if part.get('by_epoch', 'max_epochs' in part) else IterBasedTrainLoop]
    if re.fullmatch(_WRAPPER, path) and 'optimizer' in part:
        return [OptimWrapper]
    if '.paramwise_cfg' in path and 'constructor' in cfg.optim_wrapper:
        return []
    return [kind for keys, kind in _UNTYPED.items() if re.fullmatch(keys, path)]


def closest(key: str, known: Collection[str], shown: Collection[str] | None = None) -> str:
    """Return which known key a misspelt one may mean, or all of them, or those ``shown``."""
    close = get_close_matches(key, sorted(known), n=1)
    shown = known if shown is None else shown
    return f'did you mean {close[0]}?' if close else f'it has {", ".join(sorted(shown)) or "nothing like it"}'


def find_dicts(node: Any, path: str, scope: str, types: tuple = ()) -> Iterator[tuple[str, dict, tuple]]:
    """Yield path and content of every dict, and types with their scopes: of all around it and, last, its own."""
    if isinstance(node, dict):
        scope = node.get('_scope_', scope)
        if isinstance(node.get('type'), str) or callable(node.get('type')):
            types = (*types, (node['type'], scope))
        yield path, node, types
        items = list(node.items())
    else:
        items = list(enumerate(node)) if isinstance(node, (list, tuple)) else []
    for key, value in items:
        yield from find_dicts(value, f'{path}.{key}'.lstrip('.'), scope, types)


@cache
def _find_types(name: str | Callable, registries: tuple[str, ...], scope: str) -> list[Callable]:
    found = [name] if callable(name) else []
    for registry in registries if not found else ():
        try:
            import_module(f'{scope}.registry')
            own = getattr(root, registry)
            found.append(own.children.get(scope, own).get(name))
        except Exception:  # of a library that is not there or broken: whatever needs it reports that
            continue
    return [kind for kind in found if kind is not None]


def _type_names(registries: tuple[str, ...], scope: str) -> set[str]:
    """Return the names in some registries of a library and in mmengine's own."""
    owns = [getattr(root, registry) for registry in registries]
    return {name for own in owns for one in {own, own.children.get(scope, own)} for name in one.module_dict}


@cache
def _words(kind: Callable) -> frozenset[str]:
    """Return the words in the modules of a type and its bases: of a key that a head takes out of its loss, say."""
    words: set[str] = set()
    for module in {inspect.getmodule(owner) for owner in getattr(kind, '__mro__', (kind,))}:
        with suppress(OSError, TypeError):  # written in C
            words.update(re.findall(r'\w+', inspect.getsource(module)))
    return frozenset(words)


@cache
def _library(name: str) -> frozenset[str]:
    """Return the words in the source of a library: what is looked up there outside of the types themselves."""
    folder = Path(getattr(import_module(name), '__file__', None) or '').parent
    files = (
        [path for path in folder.rglob('*.py') if '.mim' not in path.parts] if (folder / '__init__.py').exists() else []
    )
    return frozenset(re.findall(r'\w+', ' '.join(path.read_text(errors='ignore') for path in files)))


@cache
def _arguments(kind: Callable) -> tuple[dict[str, Argument], bool]:
    """Return the arguments of a class, with those it passes on to its bases, and whether it takes any others."""
    found: dict[str, Argument] = getattr(kind, 'arguments', {})
    if found:
        return found, False
    for owner in kind.__mro__ if inspect.isclass(kind) else (kind,):
        function = owner.__dict__.get('__init__') if inspect.isclass(owner) else owner
        if function is None:
            continue
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError:  # written in C
            return found, True
        exact = owner.__module__.partition('.')[0] in ('randsac_mm', 'mmengine', 'torch')
        try:
            hints = get_type_hints(function)
        except Exception:  # names that are only imported for type checkers, in any library
            hints = {}
        for p in parameters:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != 'self':
                found.setdefault(
                    p.name, Argument(p.default, Any if p.name == 'loss_scale' else hints.get(p.name, Any), exact)
                )
        rest = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
        if not rest or not _only_passes_on(function, rest[0], owner):
            return found, bool(rest)
    return found, True


def _only_passes_on(function: Callable, name: str, owner: Any) -> bool:
    """Return whether a function uses its ``**name`` for ``super().__init__(**name)`` and for nothing else."""
    supers = ('super().__init__', f'super({getattr(owner, "__name__", "")}, self).__init__')
    try:
        nodes = list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))))
    except (OSError, TypeError, SyntaxError):
        return False
    uses = sum(isinstance(node, ast.Name) and node.id == name for node in nodes)
    passed = sum(
        f'**{name})' in ast.unparse(node) and ast.unparse(node.func) in supers
        for node in nodes
        if isinstance(node, ast.Call)
    )
    return uses == passed > 0
