"""Keys of a config that nothing would read, and values that do not fit, wherever they are in it."""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from inspect import Parameter
from typing import Any, get_type_hints

from mmengine import registry as root
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, FlexibleRunner, IterBasedTrainLoop, Runner, runner
from mmengine.utils.dl_utils import set_multi_processing
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
_OBSOLETE = {'debug', 'allowed_border'}  # in train_cfg of mmdet's configs
_WRAPPER = r'optim_wrapper(?:\.(?!paramwise_cfg|optimizer|clip_grad)\w+)?'
# What reads the dicts that have no type, by their paths; or the keys and types that mmengine looks up in them.
_UNTYPED: dict[str, Any] = {
    r'\w+_dataloader': DataLoader,
    'val_cfg': runner.ValLoop,
    'test_cfg': runner.TestLoop,
    'log_processor': runner.LogProcessor,
    'randomness': dict(seed=int | None, diff_rank_seed=bool, deterministic=bool),
    'auto_scale_lr': dict(base_batch_size=int, enable=bool),
    'env_cfg': dict(cudnn_benchmark=bool, mp_cfg=dict, dist_cfg=dict, resource_limit=int),
    r'env_cfg\.mp_cfg': set_multi_processing,
    r'env_cfg\.dist_cfg': dict(backend=str, init_backend=str, timeout=float, port=int, init_method=str, world_size=int,
                               rank=int, store=Any, group_name=str, pg_options=Any, device_id=Any),
    rf'{_WRAPPER}\.clip_grad': dict(max_norm=float, norm_type=float | str, clip_value=float, error_if_nonfinite=bool,
                                    foreach=bool | None),
    r'optim_wrapper\.paramwise_cfg': dict.fromkeys(
        ('bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'flat_decay_mult', 'dwconv_decay_mult',
         'dcn_offset_lr_mult'), float) | dict(custom_keys=dict, bypass_duplicate=bool),
    # Settings of parameter groups: LARS reads one of them, mmpretrain's SimSiam another.
    r'optim_wrapper\.paramwise_cfg\.custom_keys\..+': dict(
        lr_mult=float, decay_mult=float, lr=float, weight_decay=float, lars_exclude=bool, fix_lr=bool),
}  # fmt: skip


def check_keys(cfg: Config) -> None:
    """Compare keys and values of every dict in a config with what its type takes, or what reads it if it has none.

    Types that cannot be found, or that pass unknown keys on to others, are left to mmengine; so are values of arguments
    without an annotation. Settings in a model that have no type are compared with the words in its libraries' source.

    Raises:
        ValueError: If a key is unknown: its path, its type, and the closest key or all of them; or if a value is of
            another type than the argument, or out of range.
    """
    for key in sorted(cfg):
        close = get_close_matches(key, KNOWN_KEYS, n=1, cutoff=0.85) if key not in KNOWN_KEYS else []
        if close and not key.endswith('_pipeline') and not key.startswith(f'{close[0]}_'):
            raise ValueError(f'the config has {key}, which nothing reads; did you mean {close[0]}?')
        if key in KNOWN_KEYS and cfg[key] is not None:
            check_type(key, cfg[key], [taken for name, taken in _arguments(Runner)[0].items() if name == key])
            check_range(key, cfg[key])
    scope = cfg.get('default_scope') or 'mmengine'
    for key in sorted(KNOWN_KEYS.intersection(cfg)):
        registries, extra = _PARTS.get(key.rpartition('_')[2], ((), ()))
        everywhere: set[Callable] = set()
        for path, part, types in find_dicts(cfg[key], key, scope):
            found = [_find_types(name, registries, scope) for name, scope in types]
            outer = [kind for kinds in (found[:-1] if 'type' in part else found) for kind in kinds]
            own = found[-1] if 'type' in part and types else _reader_of(path, part, cfg)
            everywhere.update(outer, own if 'type' in part else ())
            if 'type' in part and not own:
                close = get_close_matches(str(part['type']), _type_names(registries, scope), n=1, cutoff=0.81)
                if close:
                    raise ValueError(f'{path}: there is no type {part["type"]}; did you mean {close[0]}?')
            readers = outer + own if key == 'model' else outer if key.endswith('_dataloader') else []
            _check_part(path, part, own, readers, extra)
            if re.match(r'model\..*\b(arch|train_cfg|test_cfg)\b', path) and 'type' not in part and everywhere:
                libraries = {kind.__module__.partition('.')[0] for kind in everywhere}
                modules = [module for module in sys.modules if module.partition('.')[0] in libraries]
                for name in set(part) - _OBSOLETE:
                    if not any(name in _words(module) for module in modules):
                        words = set().union(*map(_words, modules))
                        raise ValueError(f'{path}: the model reads no {name}; {closest(name, words, ())}')
    for name, hook in (cfg.get('default_hooks') or {}).items():
        if (name not in _HOOKS) if hook is None else (isinstance(hook, dict) and 'type' not in hook):
            known = {*_HOOKS, *cfg.default_hooks} - {name}
            raise ValueError(f'default_hooks.{name} has no type; {closest(name, known)}')


def check_custom_keys(runner: Any) -> None:
    """Find ``custom_keys`` that are in no parameter's name: ValueError if one resembles them, else a warning."""
    custom = ((runner.cfg.get('optim_wrapper') or {}).get('paramwise_cfg') or {}).get('custom_keys') or {}
    names = [f'.{name}' for name, _ in runner.model.named_parameters()] if isinstance(runner.model, Module) else []
    for key in custom if names else ():
        if not any(key in name for name in names):
            text = f'optim_wrapper.paramwise_cfg.custom_keys: no parameter of the model has {key} in its name'
            pieces = {piece for name in names for piece in (name[1:], *name.split('.'))}
            close = get_close_matches(key.strip('.'), pieces, n=1, cutoff=0.9)
            if close:
                raise ValueError(f'{text}; did you mean {close[0]}?')
            runner.logger.warning(text)


def _check_part(path: str, part: dict, kinds: list, readers: list, extra: tuple) -> None:
    """Check keys and values of one dict by what its type takes; ``readers`` may take some keys out before."""
    taken = [_arguments(kind) for kind in kinds if callable(kind)]
    arguments = [found for found, _ in taken] or [
        {name: (Parameter.empty, kind, True) for name, kind in looked_up.items()} for looked_up in kinds
    ]
    known = _ALWAYS.union(extra if taken else (), *arguments)
    takes_more = any(more for _, more in taken)
    for name in sorted(set(part) - known) if kinds else ():
        owners = [o for kind in readers or kinds * takes_more for o in getattr(kind, '__mro__', (kind,))]
        is_read = any(name in _words(owner.__module__) for owner in owners)
        if not is_read and (not takes_more or get_close_matches(name, known, cutoff=0.85)):
            kind = part.get('type') or (kinds[0] if taken else 'mmengine')
            kind = getattr(kind, '__name__', kind)
            raise ValueError(f'{path}: {kind} has no {name}; {closest(name, known - _ALWAYS)}')
    for name, value in part.items():
        check_type(f'{path}.{name}', value, [found[name] for found in arguments if name in found])
        check_range(f'{path}.{name}', value)


def _reader_of(path: str, part: dict, cfg: Config) -> list:
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
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, value in children:
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
    owns = [getattr(root, registry) for registry in registries]
    return {name for own in owns for one in (own, own.children.get(scope, own)) for name in one.module_dict}


@cache
def _words(module: str) -> frozenset[str]:
    """Return the words in the source of a module: of a key that a head takes out of its loss, say."""
    with suppress(Exception):  # written in C, or nothing but a name
        return frozenset(re.findall(r'\w+', inspect.getsource(sys.modules[module])))
    return frozenset()


@cache
def _arguments(kind: Callable) -> tuple[dict[str, Argument], bool]:
    """Return the arguments of a class, with those it passes on to its bases, and whether it takes any others."""
    found: dict[str, Argument] = {}
    for owner in kind.__mro__ if inspect.isclass(kind) else (kind,):
        function = owner.__dict__.get('__init__') if inspect.isclass(owner) else owner
        if function is None:
            continue
        exact = (owner.__module__ or '').partition('.')[0] in ('randsac_mm', 'mmengine', 'torch')
        try:
            parameters = inspect.signature(function).parameters.values()
            hints = {**get_type_hints(function), 'loss_scale': Any}  # mmengine's accepts more than its annotation
        except ValueError:  # written in C
            return found, True
        except Exception:  # names that are only imported for type checkers, in any library
            hints = {}
        for p in parameters:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != 'self':
                found.setdefault(p.name, (p.default, hints.get(p.name, Any), exact))
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
    uses = [node for node in nodes if isinstance(node, ast.Name) and node.id == name]
    calls = [(ast.unparse(node.func), ast.unparse(node)) for node in nodes if isinstance(node, ast.Call)]
    return len(uses) == len([text for called, text in calls if called in supers and f'**{name})' in text]) > 0
