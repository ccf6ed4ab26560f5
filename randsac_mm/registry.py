"""The scope ``randsac_mm`` and the decorator that registers our types wherever users name them."""

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
REGISTRIES = {
    kind: Registry(getattr(root, kind).name, parent=getattr(root, kind), scope='randsac_mm', locations=_LOCATIONS[kind])
    for kind in _LOCATIONS
}
MODELS, TASK_UTILS = REGISTRIES['MODELS'], REGISTRIES['TASK_UTILS']


def register(kind: str, everywhere: bool = False) -> Callable[[type], type]:
    """Return a class decorator that registers a class under its own name wherever a config may look for it.

    The class becomes ``randsac_mm.Name`` in any OpenMMLab project (resolved even without ``custom_imports``) and, once
    ``randsac_mm`` is imported, plain ``Name`` in mmpretrain and ``mmpretrain.Name`` in mmseg and mmdet.

    Args:
        kind: Name of a registry: ``'MODELS'``, ``'HOOKS'``, ``'DATASETS'``, ...
        everywhere: Register at mmengine's root instead of in mmpretrain, so that plain ``Name`` also works in mmseg
            and mmdet. For what several libraries use: hooks, necks, optimizer wrappers and constructors.

    Raises:
        ValueError: If ``kind`` is another registry.
    """
    if kind not in REGISTRIES:
        raise ValueError(f'kind={kind!r} must be one of {sorted(REGISTRIES)}')
    ours, outer = REGISTRIES[kind], getattr(root if everywhere else mmpretrain_registry, kind)

    def decorate(cls: type) -> type:
        ours.register_module(module=cls)
        outer.register_module(module=cls)
        return cls

    return decorate
