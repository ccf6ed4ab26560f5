"""Learning rates that decay from layer to layer towards the input, for any model whose backbone knows its depths."""

from collections.abc import Collection
from numbers import Real
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from randsac_mm.registry import register

_PREFIX = 'backbone.'
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)  # the first: batch and instance norms
_OPTIONS = ('layer_decay_rate', 'norm_decay_mult', 'bias_decay_mult', 'flat_decay_mult', 'custom_keys')
_CUSTOM_OPTIONS = ('lr_mult', 'decay_mult')
# Parts of names without weight decay in any recipe.
_NO_DECAY = {
    *('pos_embed', 'cls_token', 'dist_token', 'mask_token'),
    *('relative_position_bias_table', 'rel_pos_h', 'rel_pos_w'),
    *('gamma', 'gamma1', 'gamma2', 'gamma_1', 'gamma_2'),  # layer scales
}


@register('OPTIM_WRAPPER_CONSTRUCTORS', everywhere=True)
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Optimizer constructor with layer-wise decay of the learning rate.

    For classifiers, segmentors and detectors: ``model.backbone.get_layer_depth(name, 'backbone.')`` returns the depth
    of each parameter of the backbone. At depth d of n depths its learning rate is
    ``lr * layer_decay_rate ** (n - 1 - d)``; for a ViT of L layers n = L + 2. Outside the backbone it is ``lr``.

    Parameters that share depth and weight decay form one group of the optimizer, with ``name``, ``depth`` and
    ``lr_scale`` beside torch's keys, the deepest first: mmengine logs the first group's ``lr``. Frozen parameters are
    in no group. Positions, class and mask tokens, tables of relative positions and layer scales have no weight decay.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper, its ``optimizer`` with ``lr`` and ``weight_decay``.
        paramwise_cfg: The options:

            - ``layer_decay_rate``: Factor of the learning rate from layer to layer, above 0, at most 1.
            - ``norm_decay_mult``: Factor of the weight decay of norms. Default: 1.
            - ``bias_decay_mult``: The same for biases, but not those of norms.
            - ``flat_decay_mult``: The same for other parameters with one axis.
            - ``custom_keys``: For parts of names, as in mmengine, a dict with ``lr_mult`` or ``decay_mult`` or both,
              which override the rules above; the longest part that a name contains counts.

    Raises:
        ValueError: If ``paramwise_cfg`` lacks ``layer_decay_rate`` or has an unknown option, a value is out of range,
            or ``lr`` or ``weight_decay`` is not given. When called: if the model has no backbone with
            ``get_layer_depth``, this returns an impossible depth, or a part of a name matches no parameter.

    Paper:
        Appendix D.3 (fine-tuning, 0.65).
    """

    def add_params(self, params: list[dict], module: nn.Module, **kwargs: object) -> None:
        """Add the groups of a whole model to ``params``; mmengine's ``__call__`` does the rest."""
        backbone: Any = getattr(module, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            raise ValueError(
                f'{type(module).__name__} has no layer decay: its backbone {type(backbone).__name__} has no '
                'get_layer_depth(name, prefix), which returns the depth of a parameter and the number of depths'
            )
        custom = self.paramwise_cfg.get('custom_keys', {})
        rate = self.paramwise_cfg['layer_decay_rate']
        groups: dict[tuple, dict] = {}
        found: set[str] = set()
        seen: set[nn.Parameter] = set()
        for path, owner in module.named_modules():
            for short, parameter in owner.named_parameters(path, recurse=False):
                found.update(key for key in custom if key in short)
                if not parameter.requires_grad or parameter in seen:  # shared ones are in the group of the first
                    continue
                seen.add(parameter)
                lr_mult, decay_mult = self._multipliers(short, parameter.ndim, owner)
                depth, depths = backbone.get_layer_depth(short, _PREFIX)
                if not short.startswith(_PREFIX):
                    depth = depths - 1
                if not 0 <= depth < depths:
                    raise ValueError(
                        f'{type(backbone).__name__}.get_layer_depth({short!r}) returns {(depth, depths)}; the depth '
                        f'must lie between 0 and {depths - 1} of {depths}'
                    )
                key = (depth, lr_mult, decay_mult)
                if key not in groups:
                    scale = rate ** (depths - 1 - depth) * lr_mult
                    groups[key] = dict(
                        params=[],
                        name=_name(*key),
                        depth=depth,
                        lr_scale=scale,
                        lr=self.base_lr * scale,
                        weight_decay=self.base_wd * decay_mult,
                    )
                groups[key]['params'].append(parameter)
        if unused := custom.keys() - found:
            raise ValueError(f'custom_keys={sorted(unused)} match no parameter of {type(module).__name__}')
        params += [groups[key] for key in sorted(groups, reverse=True)]
        scales = ', '.join(f'{group["name"]} {group["lr_scale"]:.3g}' for group in params)
        print_log(
            f'layer_decay_rate={rate}, lr={self.base_lr:g}, lr_scale of {len(params)} groups: {scales}', 'current'
        )

    def _validate_cfg(self) -> None:
        cfg = self.paramwise_cfg
        if not isinstance(cfg, dict) or 'layer_decay_rate' not in cfg:
            raise ValueError(f'paramwise_cfg={cfg!r} must have layer_decay_rate, as dict(layer_decay_rate=0.65)')
        _check_options(cfg, _OPTIONS, 'paramwise_cfg')
        rate = cfg['layer_decay_rate']
        if not _is_number(rate) or not 0 < rate <= 1:
            raise ValueError(f'layer_decay_rate={rate!r} must be a number above 0 and at most 1')
        custom = cfg.get('custom_keys', {})
        if not isinstance(custom, dict) or not all(isinstance(value, dict) for value in custom.values()):
            raise ValueError(f'custom_keys={custom!r} must be a dict of dicts, as dict(norm=dict(decay_mult=0.))')
        for key, options in custom.items():
            _check_options(options, _CUSTOM_OPTIONS, f'custom_keys[{key!r}]')
        for value, key in ((self.base_lr, 'lr'), (self.base_wd, 'weight_decay')):
            if value is None:
                raise ValueError(f'optim_wrapper.optimizer must have {key}, which layer decay multiplies')

    def _multipliers(self, name: str, axes: int, owner: nn.Module) -> tuple[float, float]:
        """Return the factors of learning rate and weight decay of a parameter."""
        cfg = self.paramwise_cfg
        if not _NO_DECAY.isdisjoint(name.split('.')):
            decay_mult = 0.0
        elif isinstance(owner, _NORMS):
            decay_mult = cfg.get('norm_decay_mult', 1.0)
        elif name.endswith('bias'):
            decay_mult = cfg.get('bias_decay_mult', 1.0)
        else:
            decay_mult = cfg.get('flat_decay_mult', 1.0) if axes == 1 else 1.0
        custom = cfg.get('custom_keys', {})
        longest = max((key for key in sorted(custom) if key in name), key=len, default=None)
        own = custom.get(longest, {})
        return float(own.get('lr_mult', 1.0)), float(own.get('decay_mult', decay_mult))


def _name(depth: int, lr_mult: float, decay_mult: float) -> str:
    decay = {0.0: 'no_decay', 1.0: 'decay'}.get(decay_mult, f'decay_x{decay_mult:g}')
    return f'depth_{depth}_{decay}' + (f'_lr_x{lr_mult:g}' if lr_mult != 1 else '')


def _check_options(options: dict, known: Collection[str], name: str) -> None:
    for key, value in options.items():
        if key not in known:
            raise ValueError(f'{name} has no option {key!r}; choose from {", ".join(known)}')
        if key.endswith('_mult') and (not _is_number(value) or value < 0):
            raise ValueError(f'{name}: {key}={value!r} must be a number, not negative')


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
