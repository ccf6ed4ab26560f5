"""Strict hand-over of a backbone: all of it arrives, or the run stops and says why."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.logging import print_log
from mmengine.model import BaseModule, PretrainedInit, update_init_info
from torch import Tensor, nn

from randsac_mm.registry import register
from randsac_mm.transfer.architecture import ANCHORS, check_architecture, check_num_heads
from randsac_mm.transfer.names import choose, collapse, generalise
from randsac_mm.transfer.peers import NORMS, convert
from randsac_mm.transfer.reading import find_state, read_checkpoint

# A checkpoint may hold several Vision Transformers, as a student and a teacher; these are the backbone.
_USUAL_PREFIXES = ('', 'backbone.', 'module.', 'module.backbone.')


@dataclass(frozen=True)
class LoadReport:
    """Say what became of each key of a checkpoint, and where each tensor of the backbone is from.

    ``str(report)`` is a summary of a few lines.

    Attributes:
        path: The checkpoint.
        prefix: What stood before the backbone's names in it.
        loaded: The backbone's tensors that were loaded as they are.
        resized: The backbone's tensors that were made from the checkpoint's, and how.
        dropped: The checkpoint's tensors that were not used, by their full names, and why.
        missing: The backbone's tensors that the checkpoint lacks and that keep their initial values, and why they may.
    """

    path: str
    prefix: str
    loaded: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f'{self.path}, prefix {self.prefix!r}: {len(self.loaded)} tensors loaded, {len(self.resized)} converted, '
            f'{len(self.dropped)} not used, {len(self.missing)} missing',
            f'  loaded: {", ".join(collapse(self.loaded))}',
        ]
        for title, fates in (('converted', self.resized), ('not used', self.dropped), ('missing', self.missing)):
            by_reason: dict[str, list[str]] = {}
            for key, reason in fates.items():
                by_reason.setdefault(reason, []).append(key)
            lines += [f'  {title}, {reason}: {_brief(keys)}' for reason, keys in by_reason.items()]
        return '\n'.join(lines)


def load_backbone(
    backbone: nn.Module,
    path: str | Path,
    prefix: str | None = None,
    allow_missing: str | Sequence[str] = (),
    allow_unexpected: str | Sequence[str] = (),
) -> LoadReport:
    """Load a backbone from a checkpoint, completely or not at all.

    Takes checkpoints of pre-training, fine-tuning, segmentation and detection, also of several processes
    (``module.``), and exported backbones. What lies outside the prefix (decoder, head, ...) is not used. Fixed
    positions are the backbone's own, made for its grid. With a ``method`` other than ``'randsac'`` the weights go
    through :func:`randsac_mm.transfer.peers.convert`.

    Two norms may be on one side only: one in the file that the backbone does not have is not used (``ln1`` with
    ``final_norm=False``, ``ln2`` without ``out_type='avg_featmap'``), and a new ``ln2``, which pre-training does not
    have, keeps its initial values. Nothing else is allowed without being named.

    Args:
        backbone: A :class:`randsac_mm.models.RandSACViT`, or another backbone that is loaded key by key.
        path: A file or http(s) address, see :func:`randsac_mm.transfer.reading.read_checkpoint`.
        prefix: What stands before the backbone's names in the file, as ``'backbone.'``. None: it is found.
        allow_missing: Patterns, as ``'ln1.*'``, of the backbone's names that the file may lack.
        allow_unexpected: Patterns of names, without prefix, that the backbone may lack.

    Returns:
        What became of every key.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, belongs to no Vision Transformer or to another architecture, patch
            size, number of channels or method, if there is no such prefix, if any tensor is missing, left over or of
            another shape, or if a pattern matches nothing. The backbone is unchanged then.
    """
    path = str(path)
    checkpoint = read_checkpoint(path)
    state = find_state(checkpoint, path)
    own = backbone.state_dict()
    prefix = choose_prefix(state, own, prefix, path)
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    dropped = {key: f'outside the prefix {prefix!r}' for key in state if not key.startswith(prefix)}
    check_architecture(inside, own, path)
    check_num_heads(checkpoint, backbone, path)

    weights, fates = inside, {}
    if getattr(backbone, 'method', 'randsac') != 'randsac':
        weights, fates = convert(inside, backbone)
    missing, left_over = own.keys() - weights.keys(), weights.keys() - own.keys()
    may_lack = dict.fromkeys(_norm('ln2.', missing, own), 'keeps its initial value: the checkpoint has no such norm')
    may_lack |= dict.fromkeys(choose(missing, allow_missing, 'allow_missing'), 'allow_missing')
    may_have = {key: why for start, why in NORMS.items() for key in _norm(start, left_over, weights)}
    may_have |= dict.fromkeys(choose(left_over, allow_unexpected, 'allow_unexpected'), 'allow_unexpected')
    _check(missing - may_lack.keys(), left_over - may_have.keys(), weights, backbone, path)

    # Everything fits by now. What the file lacks is loaded from the backbone itself, so that this is strict as well.
    backbone.load_state_dict({**own, **{key: weights[key] for key in own if key in weights}}, strict=True)

    made = {
        key: fates.get(key, 'made from others') for key in own if key in weights and not _same(key, weights, inside)
    }
    if (
        _has_fixed_positions(backbone)
        and 'pos_embed' in weights
        and weights['pos_embed'].shape != own['pos_embed'].shape
    ):
        made['pos_embed'] = "fixed positions, made for the backbone's grid"
    dropped |= {prefix + key: why for key, why in fates.items() if key not in weights}
    return LoadReport(
        path=path,
        prefix=prefix,
        loaded=[key for key in own if key in weights and key not in made],
        resized=made,
        dropped=dropped | {prefix + key: may_have[key] for key in weights if key in may_have},
        missing={key: may_lack[key] for key in own if key in may_lack},
    )


@register('WEIGHT_INITIALIZERS', everywhere=True)
class StrictPretrained:
    """Initialise a backbone by :func:`load_backbone`, in any OpenMMLab library.

    ``init_cfg=dict(type='StrictPretrained', checkpoint='epoch_100.pth')``. mmengine's ``Pretrained`` goes on with
    random weights if names do not fit; in :class:`randsac_mm.models.RandSACViT` it means this class as well.

    Args:
        checkpoint: A file or http(s) address.
        prefix: What stands before the backbone's names in the file, as ``'backbone.'``. None: it is found.
        allow_missing: See :func:`load_backbone`.
        allow_unexpected: See :func:`load_backbone`.
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: str | None = None,
        allow_missing: str | Sequence[str] = (),
        allow_unexpected: str | Sequence[str] = (),
    ) -> None:
        self.checkpoint = checkpoint
        self.options = dict(prefix=prefix, allow_missing=allow_missing, allow_unexpected=allow_unexpected)

    def __call__(self, module: nn.Module) -> None:
        """Load the weights of ``module``; nothing draws them again afterwards. Raises what load_backbone does."""
        report = load_backbone(module, self.checkpoint, **self.options)
        print_log(f'{type(module).__name__} from {report}', logger='current')
        # mmengine initialises children after their parents, and mmpretrain's own ViT its positions last of all.
        module.init_cfg = dict(type='Pretrained', checkpoint=self.checkpoint, **self.options)
        for child in module.modules():
            if isinstance(child, BaseModule) and child is not module:
                child.is_init = True
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'StrictPretrained: loaded from {self.checkpoint}')


def strict_init_cfg(init_cfg: dict | list[dict] | None) -> list[dict]:
    """Put :class:`StrictPretrained` in place of mmengine's ``Pretrained``.

    Args:
        init_cfg: As in mmengine.

    Returns:
        The same as a list; what loads a checkpoint comes last.

    Example:
        >>> strict_init_cfg(dict(type='Pretrained', checkpoint='a.pth'))
        [{'checkpoint': 'a.pth', 'type': 'StrictPretrained'}]
    """
    cfgs = [dict(cfg) for cfg in ([init_cfg] if isinstance(init_cfg, dict) else init_cfg or [])]
    for cfg in cfgs:
        if cfg['type'] is PretrainedInit or str(cfg['type']).split('.')[-1] == 'Pretrained':
            cfg.pop('map_location', None)  # of no consequence: the weights go to where the backbone is
            del cfg['type']
            cfg['type'] = 'StrictPretrained'
    return sorted(cfgs, key=lambda cfg: cfg['type'] == 'StrictPretrained')


def choose_prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor], prefix: str | None, path: str) -> str:
    """Find the prefix of the backbone in a checkpoint, or check the one that is given.

    Args:
        state: All tensors of the checkpoint.
        own: Names of the backbone's tensors, or only some that tell it from other models.
        prefix: The prefix, as ``'backbone.'``. None: it is found.
        path: The file, for the error.

    Returns:
        The prefix, with a dot at its end unless it is empty.

    Raises:
        ValueError: If there is no such backbone, or several.
    """
    anchors = [anchor for anchor in ANCHORS if anchor in own] or list(own)[:1]
    ends = [key[: -len(anchors[0])] for key in state if f'.{key}'.endswith(f'.{anchors[0]}')]
    found = [end for end in ends if all(end + anchor in state for anchor in anchors)]
    if not found:
        others = any(key.endswith('blocks.0.attn.qkv.weight') for key in state)
        raise ValueError(
            f'{path} is the wrong file: it has no tensor {" and ".join(anchors)} under any prefix. '
            + (
                "Its names are those of timm and of authors' own code; convert them to mmpretrain's by its tools"
                if others
                else f'It holds {_brief(state)}. Give the checkpoint of a pre-training, a classifier or a backbone'
            )
        )
    if prefix is not None:
        prefix = prefix if not prefix or prefix.endswith('.') else f'{prefix}.'
        if prefix not in found:
            raise ValueError(
                f'prefix={prefix!r}: {path} has no backbone under it, but under {found}; it holds {_brief(state)}. '
                'Name one of these, or leave prefix out'
            )
        return prefix
    for usual in _USUAL_PREFIXES:
        if usual in found:
            return usual
    score = {end: sum(end + key in state for key in own) for end in found}
    best = [end for end in found if score[end] == max(score.values())]
    if len(best) > 1:
        raise ValueError(f'{path} holds several backbones, under {best}. Name one of these as prefix')
    return best[0]


def _norm(start: str, keys: Collection[str], side: Mapping[str, Tensor]) -> set[str]:
    """Give the keys of a norm if all of it is on one side only."""
    whole = {key for key in side if key.startswith(start)}
    return whole if whole <= set(keys) else set()


def _same(key: str, weights: Mapping[str, Tensor], inside: Mapping[str, Tensor]) -> bool:
    return weights[key] is inside.get(key)


def _has_fixed_positions(backbone: nn.Module) -> bool:
    return getattr(backbone, 'positions', None) == 'fixed'


def _check(
    missing: Collection[str],
    left_over: Collection[str],
    weights: Mapping[str, Tensor],
    backbone: nn.Module,
    path: str,
) -> None:
    """Raise if anything does not fit, before anything is loaded."""
    own = backbone.state_dict()
    shapes = [
        f'{key}: {tuple(weights[key].shape)} in the file, {tuple(own[key].shape)} in the backbone'
        for key in own
        if key in weights
        and weights[key].shape != own[key].shape
        # Fixed ones are made for the backbone's grid; its load hook checks what they are made from.
        and not (key == 'pos_embed' and _has_fixed_positions(backbone))
    ]
    if not (missing or left_over or shapes):
        return
    lines = [
        f'{path} does not fit the backbone, nothing was loaded.',
        f'  missing in the file: {collapse(sorted(missing))}',
        f'  left over in the file: {collapse(sorted(left_over))}',
    ]
    if shapes:
        lines.append(f'  other shape: {"; ".join(shapes)}')
    if 'cls_token' in left_over:
        lines.append("The file has a class token: set method='mae', or whose it is, in the backbone")
    options = [
        f'{name}={generalise(keys)}'
        for name, keys in (('allow_missing', missing), ('allow_unexpected', left_over))
        if keys
    ]
    if options:
        lines.append(f"If this is meant to be so: init_cfg=dict(type='StrictPretrained', {', '.join(options)}, ...)")
    raise ValueError('\n'.join(lines))


def _brief(keys: Iterable[str]) -> str:
    """Write names shortly; if they are many, by their first parts with how many there are of each."""
    keys = list(keys)
    names = collapse(keys)
    if len(names) <= 4:
        return ', '.join(names)
    firsts = Counter(key.split('.')[0] + '.*' * ('.' in key) for key in keys)
    return ', '.join(f'{first} ({number})' if number > 1 else first for first, number in firsts.items())
