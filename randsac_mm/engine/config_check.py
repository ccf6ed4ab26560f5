"""Keys of a config that nothing would read: misspelt in a model, a hook, a data loader, or at the top of the file."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from typing import Any

from mmengine import registry as root
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, FlexibleRunner, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

# Keys that no runner takes as an argument but that mmengine or OpenMMLab's libraries look up in a config.
_OTHER_KEYS = {
    'activation_checkpointing', 'auto_scale_lr', 'compile', 'custom_imports', 'efficient_conv_bn_eval',
    'find_unused_parameters', 'launcher', 'load_from', 'model_wrapper_cfg', 'resume', 'runner_type', 'strategy',
    'sync_bn', 'tta_model', 'tta_pipeline', 'work_dir',
}  # fmt: skip
KNOWN_KEYS = _OTHER_KEYS.union(inspect.signature(Runner).parameters, inspect.signature(FlexibleRunner).parameters)

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


def check_keys(cfg: Config) -> None:
    """Compare every dict of a config that has a ``type``, or a default one, with what that type takes.

    Types that cannot be found, or that pass unknown keys on to others, are left to mmengine.

    Raises:
        ValueError: If a key is unknown: its path, its type, and the closest key or all of them.
    """
    for key in set(cfg) - KNOWN_KEYS:
        close = get_close_matches(key, KNOWN_KEYS, n=1, cutoff=0.85)
        if close and not key.endswith('_pipeline') and not key.startswith(f'{close[0]}_'):
            raise ValueError(f'the config has {key}, which nothing reads; did you mean {close[0]}?')
    for key in sorted(KNOWN_KEYS.intersection(cfg)):
        registries, extra = _PARTS.get(key.rpartition('_')[2], ((), ()))
        node = cfg[key]
        if isinstance(node, dict) and 'type' not in node:
            node = {**_default_type(key, node), **node}
        for path, part, types in _typed(node, key, cfg.get('default_scope') or 'mmengine'):
            *outer, kinds = [_find_types(name, registries, scope) for name, scope in types]
            known = [_accepted(kind) for kind in kinds]
            if known and None not in known:
                known = _ALWAYS.union(extra, *known)
                readers = [kind for found in (*outer, kinds) for kind in found]
                for name in sorted(set(part) - known):
                    if not any(_reads(kind, name) for kind in readers):
                        kind = getattr(part['type'], '__name__', part['type'])
                        raise ValueError(f'{path}: {kind} has no {name}; {closest(name, known - _ALWAYS)}')


def _default_type(key: str, node: dict) -> dict[str, Callable]:
    """Return what mmengine builds from a part of a config without a type."""
    if key.endswith('_dataloader'):
        return {'type': DataLoader}
    if key == 'train_cfg' and node:
        by_epoch = node.get('by_epoch', 'max_epochs' in node)
        return {'type': EpochBasedTrainLoop if by_epoch else IterBasedTrainLoop}
    return {'type': OptimWrapper} if key == 'optim_wrapper' and 'optimizer' in node else {}


def closest(key: str, known: Collection[str], shown: Collection[str] = ()) -> str:
    """Return which known key a misspelt one may mean, or all of them, or those ``shown``."""
    close = get_close_matches(key, sorted(known), n=1)
    return f'did you mean {close[0]}?' if close else f'it has {", ".join(sorted(shown or known))}'


def _typed(node: Any, path: str, scope: str, types: tuple = ()) -> Iterator[tuple[str, dict, tuple]]:
    """Yield path and dict of every dict with a type, and types with their scopes: of all around it and its own."""
    if isinstance(node, dict):
        scope = node.get('_scope_', scope)
        if isinstance(node.get('type'), str) or callable(node.get('type')):
            types = (*types, (node['type'], scope))
            yield path, node, types
        items = list(node.items())
    else:
        items = list(enumerate(node)) if isinstance(node, (list, tuple)) else []
    for key, value in items:
        yield from _typed(value, f'{path}.{key}', scope, types)


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


@cache
def _reads(kind: Callable, key: str) -> bool:
    """Return whether the modules of a type and its bases have the word: a head that takes it out of its loss, say."""
    for module in {inspect.getmodule(owner) for owner in getattr(kind, '__mro__', (kind,))}:
        with suppress(OSError, TypeError):  # written in C
            if re.search(rf'\b{re.escape(key)}\b', inspect.getsource(module)):
                return True
    return False


@cache
def _accepted(kind: Callable) -> frozenset[str] | None:
    """Return the names of the arguments of a class, with those it passes on to its bases; None if it takes any."""
    names: set[str] = set()
    for owner in kind.__mro__ if inspect.isclass(kind) else (kind,):
        function = owner.__dict__.get('__init__') if inspect.isclass(owner) else owner
        if function is None:
            continue
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError:  # written in C
            return None
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        rest = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
        if not rest:
            return frozenset(names - {'self'})
        if not _only_passes_on(function, rest[0], owner):
            return None
    return None


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
