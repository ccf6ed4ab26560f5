"""Learning rates that fall from layer to layer towards the input, for any model with a backbone that knows depths."""

import difflib
from collections.abc import Callable
from numbers import Real

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm, _InstanceNorm
from torch import nn

from randsac_mm.registry import register

_PREFIX = 'backbone.'
_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)
_OPTIONS = ('layer_decay_rate', 'norm_decay_mult', 'bias_decay_mult', 'flat_decay_mult', 'custom_keys')
_CUSTOM_OPTIONS = ('lr_mult', 'decay_mult')
# Parts of names; these have no weight decay in anybody's recipe.
_NO_DECAY = {
    *('pos_embed', 'cls_token', 'dist_token', 'mask_token'),
    *('relative_position_bias_table', 'rel_pos_h', 'rel_pos_w'),
    *('gamma', 'gamma1', 'gamma2', 'gamma_1', 'gamma_2'),  # layer scales
}


@register('OPTIM_WRAPPER_CONSTRUCTORS', everywhere=True)
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Build an optimizer whose learning rate is smaller the closer a parameter lies to the image.

    Serves classifiers, segmentors and detectors alike: it asks ``model.backbone.get_layer_depth(name, 'backbone.')``
    for the depth of each parameter of the backbone. At depth d of n depths its learning rate is
    ``lr * layer_decay_rate ** (n - 1 - d)``; for a ViT of L layers n = L + 2. Everything outside the backbone has the
    full ``lr``.

    Parameters that share depth and weight decay form one group of the optimizer, with ``name``, ``depth`` and
    ``lr_scale`` beside what torch needs, the deepest first: the first group's ``lr`` is the one that mmengine logs.
    Frozen parameters are in no group.

    Positions, class and mask tokens, tables of relative positions and layer scales have no weight decay: BEiT's recipe
    for the first, and Swin's for the tables. Norms and biases have none either with ``norm_decay_mult=0.`` and
    ``bias_decay_mult=0.``, as in BEiT's, MAE's and mmseg's recipes.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper, its ``optimizer`` with ``lr`` and ``weight_decay``.
        paramwise_cfg: The options, none of them in doubt:

            - ``layer_decay_rate``: What the learning rate is multiplied with from layer to layer, above 0, at most 1.
            - ``norm_decay_mult``: What the weight decay of norms is multiplied with. Left out: 1.
            - ``bias_decay_mult``: The same for biases, but not those of norms.
            - ``flat_decay_mult``: The same for other parameters with one axis.
            - ``custom_keys``: For parts of names, as in mmengine, a dict with ``lr_mult`` or ``decay_mult`` or both,
              which come before all rules above; the longest part that a name contains counts.

    Raises:
        ValueError: If ``paramwise_cfg`` is empty or has an unknown option, a value is out of range, or ``lr`` or
            ``weight_decay`` is not given. When called: if the model has no backbone with ``get_layer_depth``, this
            gives no sensible depth, or a part of a name is found nowhere.

    Paper:
        Appendix D.3 (fine-tuning, 0.65).

    Example:
        >>> optim_wrapper = dict(
        ...     constructor='LayerDecayOptimWrapperConstructor',
        ...     optimizer=dict(type='AdamW', lr=7e-4, weight_decay=0.05),
        ...     paramwise_cfg=dict(layer_decay_rate=0.65, norm_decay_mult=0.0, bias_decay_mult=0.0),
        ... )
    """

    def add_params(self, params: list[dict], module: nn.Module, **kwargs: object) -> None:
        """Add the groups of a whole model to ``params``; mmengine's ``__call__`` does the rest."""
        depth_of, depths = _depths(module)
        custom = self.paramwise_cfg.get('custom_keys', {})
        rate = self.paramwise_cfg['layer_decay_rate']
        groups: dict[tuple, dict] = {}
        found, seen = set(), set()
        for path, owner in module.named_modules():
            for short, parameter in owner.named_parameters(path, recurse=False):
                found.update(key for key in custom if key in short)
                if not parameter.requires_grad or parameter in seen:  # shared ones are in the group of the first
                    continue
                seen.add(parameter)
                lr_mult, decay_mult = self._multipliers(short, parameter.ndim, owner)
                depth = depth_of(short)
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
            raise ValueError(
                f'custom_keys names {sorted(unused)}, but no parameter of {type(module).__name__} has that in its '
                'name. Remove or correct it'
            )
        params += [groups[key] for key in sorted(groups, reverse=True)]
        print_log(self._table(params), logger='current')

    def _validate_cfg(self) -> None:
        cfg = self.paramwise_cfg
        if not isinstance(cfg, dict):
            raise ValueError(f'paramwise_cfg={cfg!r} must be a dict, as dict(layer_decay_rate=0.65)')
        if 'layer_decay_rate' not in cfg:
            close = difflib.get_close_matches('layer_decay_rate', cfg, n=1)
            hint = f'{close[0]!r} is not its name' if close else f'it has {sorted(cfg) or "nothing"}'
            raise ValueError(
                'paramwise_cfg must say layer_decay_rate, as paramwise_cfg=dict(layer_decay_rate=0.65); ' + hint
            )
        _check_keys(cfg, _OPTIONS, 'paramwise_cfg')
        rate = cfg['layer_decay_rate']
        if not _is_number(rate) or not 0 < rate <= 1:
            raise ValueError(f'layer_decay_rate={rate!r} must be a number above 0 and at most 1')
        custom = cfg.get('custom_keys', {})
        if not isinstance(custom, dict) or not all(isinstance(value, dict) for value in custom.values()):
            raise ValueError(f'custom_keys={custom!r} must be a dict of dicts, as dict(norm=dict(decay_mult=0.))')
        for name, options in {'paramwise_cfg': cfg, **{f'custom_keys[{key!r}]': custom[key] for key in custom}}.items():
            if options is not cfg:
                _check_keys(options, _CUSTOM_OPTIONS, name)
            for key, value in options.items():
                if key.endswith('_mult') and (not _is_number(value) or value < 0):
                    raise ValueError(f'{key}={value!r} in {name} must be a number, not negative')
        for value, key in ((self.base_lr, 'lr'), (self.base_wd, 'weight_decay')):
            if value is None:
                raise ValueError(f"optim_wrapper's optimizer must say its {key}; it is what the options multiply")

    def _multipliers(self, name: str, axes: int, owner: nn.Module) -> tuple[float, float]:
        """Give what learning rate and weight decay of a parameter are multiplied with."""
        cfg = self.paramwise_cfg
        last = name.rpartition('.')[2]
        if not _NO_DECAY.isdisjoint(name.split('.')):
            decay_mult = 0.0
        elif isinstance(owner, _NORMS):
            decay_mult = cfg.get('norm_decay_mult', 1.0)
        elif last == 'bias':
            decay_mult = cfg.get('bias_decay_mult', 1.0)
        else:
            decay_mult = cfg.get('flat_decay_mult', 1.0) if axes == 1 else 1.0
        custom = cfg.get('custom_keys', {})
        longest = max((key for key in sorted(custom) if key in name), key=len, default=None)
        own = custom.get(longest, {})
        return float(own.get('lr_mult', 1.0)), float(own.get('decay_mult', decay_mult))

    def _table(self, groups: list[dict]) -> str:
        rate = self.paramwise_cfg['layer_decay_rate']
        lines = [
            f'layer_decay_rate={rate}, lr={self.base_lr:g}, weight_decay={self.base_wd:g}: {len(groups)} groups',
            '  group                     lr_scale         lr  weight_decay  tensors',
        ]
        lines += [
            f'  {group["name"]:24} {group["lr_scale"]:9.3g} {group["lr"]:10.3g} {group["weight_decay"]:13.3g} '
            f'{len(group["params"]):8}'
            for group in groups
        ]
        return '\n'.join(lines)


def _depths(model: nn.Module) -> tuple[Callable[[str], int], int]:
    """Give a function from the name of a parameter to its depth, and the number of depths."""
    backbone = getattr(model, 'backbone', None)
    if not hasattr(backbone, 'get_layer_depth'):
        lacking = f'its backbone {type(backbone).__name__}' if backbone is not None else type(model).__name__
        what = 'get_layer_depth(name, prefix)' if backbone is not None else 'backbone'
        raise ValueError(
            f'layer decay cannot be used with {type(model).__name__}: {lacking} has no {what}. Take '
            'mmpretrain.RandSACViT as the backbone, or give yours that method: it returns the depth of a parameter and '
            'the number of depths'
        )
    depths = backbone.get_layer_depth(_PREFIX + next(iter(backbone.state_dict())), _PREFIX)[1]

    def depth_of(name: str) -> int:
        if not name.startswith(_PREFIX):
            return depths - 1
        depth, total = backbone.get_layer_depth(name, _PREFIX)
        if total != depths or not 0 <= depth < depths:
            raise ValueError(
                f'{type(backbone).__name__}.get_layer_depth({name!r}) gives {(depth, total)}: the depth must lie '
                f'between 0 and {depths - 1}, with {depths} depths for all parameters. Correct that method'
            )
        return depth

    return depth_of, depths


def _name(depth: int, lr_mult: float, decay_mult: float) -> str:
    decay = {0.0: 'no_decay', 1.0: 'decay'}.get(decay_mult, f'decay_x{decay_mult:g}')
    return f'depth_{depth}_{decay}' + (f'_lr_x{lr_mult:g}' if lr_mult != 1 else '')


def _check_keys(cfg: dict, known: tuple[str, ...], name: str) -> None:
    for key in cfg:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            raise ValueError(
                f'{name} has no option {key!r}'
                + (f', did you mean {close[0]!r}?' if close else f'; choose from {known}')
            )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
