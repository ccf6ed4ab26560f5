"""The scope ``randsac_mm`` and the one decorator that registers our types wherever users name them."""

from collections.abc import Callable

from mmengine import registry as root
from mmengine.registry import Registry
from mmpretrain import registry as mmpretrain_registry

_LOCATIONS = {
    'DATASETS': ['randsac_mm.datasets'],
    'HOOKS': ['randsac_mm.engine', 'randsac_mm.evaluation'],
    'MODELS': ['randsac_mm.models', 'randsac_mm.transfer'],
    'OPTIM_WRAPPER_CONSTRUCTORS': ['randsac_mm.transfer'],
    'OPTIM_WRAPPERS': ['randsac_mm.engine'],
    'TASK_UTILS': ['randsac_mm.datasets', 'randsac_mm.models'],
    'TRANSFORMS': ['randsac_mm.datasets'],
    'WEIGHT_INITIALIZERS': ['randsac_mm.transfer'],
}


def _scoped(name: str) -> Registry:
    """Make a registry of our own scope below mmengine's root registry ``name``."""
    parent = getattr(root, name)
    return Registry(parent.name, parent=parent, scope='randsac_mm', locations=_LOCATIONS[name])


DATASETS = _scoped('DATASETS')
HOOKS = _scoped('HOOKS')
MODELS = _scoped('MODELS')
OPTIM_WRAPPER_CONSTRUCTORS = _scoped('OPTIM_WRAPPER_CONSTRUCTORS')
OPTIM_WRAPPERS = _scoped('OPTIM_WRAPPERS')
TASK_UTILS = _scoped('TASK_UTILS')
TRANSFORMS = _scoped('TRANSFORMS')
WEIGHT_INITIALIZERS = _scoped('WEIGHT_INITIALIZERS')

_OURS = {
    'DATASETS': DATASETS,
    'HOOKS': HOOKS,
    'MODELS': MODELS,
    'OPTIM_WRAPPER_CONSTRUCTORS': OPTIM_WRAPPER_CONSTRUCTORS,
    'OPTIM_WRAPPERS': OPTIM_WRAPPERS,
    'TASK_UTILS': TASK_UTILS,
    'TRANSFORMS': TRANSFORMS,
    'WEIGHT_INITIALIZERS': WEIGHT_INITIALIZERS,
}


def register(kind: str, everywhere: bool = False) -> Callable[[type], type]:
    """Register a class under its own name in every registry where a config may look for it.

    The class becomes ``randsac_mm.Name`` in any OpenMMLab project (resolved even without ``custom_imports``) and, once
    ``randsac_mm`` is imported, plain ``Name`` in mmpretrain and ``mmpretrain.Name`` in mmseg and mmdet.

    Args:
        kind: Name of the registry in ``mmengine.registry``: ``'MODELS'``, ``'HOOKS'``, ``'DATASETS'``, ...
        everywhere: Register at mmengine's root instead of in mmpretrain, so that plain ``Name`` also works in mmseg
            and mmdet. For what several libraries use: hooks, necks, optimiser wrappers and constructors.

    Returns:
        A class decorator that returns the class unchanged.

    Raises:
        ValueError: If ``kind`` is not a registry of ours.

    Example:
        >>> from torch import nn
        >>> @register('MODELS')
        ... class DoctestNeck(nn.Module):
        ...     pass
        >>> type(MODELS.build(dict(type='randsac_mm.DoctestNeck'))).__name__
        'DoctestNeck'
    """
    if kind not in _OURS:
        raise ValueError(f'kind={kind!r} is no registry of randsac_mm; choose one of {sorted(_OURS)}')
    outer = getattr(root if everywhere else mmpretrain_registry, kind)

    def decorate(cls: type) -> type:
        _OURS[kind].register_module(module=cls)
        outer.register_module(module=cls)
        return cls

    return decorate
