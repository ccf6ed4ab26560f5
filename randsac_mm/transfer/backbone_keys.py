"""Names of a backbone's tensors in a checkpoint: prefixes, patterns, timm's names, and the sizes that tensors show."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from mmpretrain.models.backbones import VisionTransformer
from torch import Tensor, nn

from .stored_config import stored_config

# What every Vision Transformer with mmpretrain's names has.
_ANCHORS = ('patch_embed.projection.weight', 'layers.0.attn.qkv.weight')
# A checkpoint may hold several Vision Transformers, as a student and a teacher; these are the backbone.
_USUAL_PREFIXES = ('', 'backbone.', 'module.', 'module.backbone.')
_TIMM_ANCHOR = 'blocks.0.attn.qkv.weight'
_TIMM_TO_MMPRETRAIN = [
    (r'\bpatch_embed\.proj\.', 'patch_embed.projection.'),
    (r'\bblocks\.(\d+)\.norm([12])\.', r'layers.\1.ln\2.'),
    (r'\bblocks\.(\d+)\.mlp\.fc1\.', r'layers.\1.ffn.layers.0.0.'),
    (r'\bblocks\.(\d+)\.mlp\.fc2\.', r'layers.\1.ffn.layers.1.'),
    (r'\bblocks\.', 'layers.'),
    (r'(^|\.)norm\.', r'\1ln1.'),
    (r'(^|\.)fc_norm\.', r'\1ln2.'),
]
_SCALES_TO_MMPRETRAIN = [
    (r'\bblocks\.(\d+)\.(?:ls1\.gamma|gamma_1)$', r'layers.\1.attn.gamma1.weight'),
    (r'\bblocks\.(\d+)\.(?:ls2\.gamma|gamma_2)$', r'layers.\1.ffn.gamma2.weight'),
]
_NUMBER = re.compile(r'(?<=\.)\d+(?=\.)')


def rename_timm_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of a ViT with timm's names, which most authors use, to mmpretrain's.

    Example:
        >>> sorted(rename_timm_keys({_TIMM_ANCHOR: 0, 'norm.bias': 1, 'blocks.0.mlp.fc2.bias': 2}))
        ['layers.0.attn.qkv.weight', 'layers.0.ffn.layers.1.bias', 'ln1.bias']
    """
    if not any(f'.{key}'.endswith(f'.{_TIMM_ANCHOR}') for key in state):
        return dict(state)
    beit = any(key.endswith('.attn.q_bias') for key in state)  # its layer scales keep their names
    table = _TIMM_TO_MMPRETRAIN if beit else _SCALES_TO_MMPRETRAIN + _TIMM_TO_MMPRETRAIN
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in table:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def choose_prefix(state: Mapping[str, Tensor], own: Collection[str], prefix: str | None, path: str) -> str:
    """Return the prefix of the backbone in a checkpoint, empty or with a dot at its end.

    Raises:
        ValueError: If there is no backbone with the names ``own`` under ``prefix`` (None: under any), or several.
    """
    anchors = [anchor for anchor in _ANCHORS if anchor in own] or list(own)[:1]
    ends = [key[: -len(anchors[0])] for key in state if f'.{key}'.endswith(f'.{anchors[0]}')]
    found = [end for end in ends if all(end + anchor in state for anchor in anchors)]
    if not found:
        names = ', '.join(sorted({key.split('.')[0] for key in state}))
        raise ValueError(f'{path} has no tensor {anchors[0]} under any prefix; its names start with {names}')
    if prefix is not None:
        prefix = prefix if not prefix or prefix.endswith('.') else f'{prefix}.'
        if prefix not in found:
            raise ValueError(f'prefix={prefix!r}: {path} has no backbone under it. Use one of {found}, or no prefix')
        return prefix
    for usual in _USUAL_PREFIXES:
        if usual in found:
            return usual
    if len(found) > 1:
        raise ValueError(f'{path} has several backbones: use one of {found} as prefix')
    return found[0]


def whole_norm(start: str, keys: Collection[str], side: Collection[str]) -> set[str]:
    """Return the keys of a norm if all of it is on one side only."""
    whole = {key for key in side if key.startswith(start)}
    return whole if whole <= set(keys) else set()


def check_architecture(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str) -> None:
    """Compare the sizes of Vision Transformers, where lists of tensors would be long."""
    theirs, ours = _sizes(state), _sizes(own)
    differing = [key for key in ours if key in theirs and theirs[key] != ours[key]]
    if differing:
        raise ValueError(
            f'{path} does not fit the backbone, nothing was loaded: '
            + ', '.join(f'{key}={theirs[key]} in the file, {ours[key]} in the backbone' for key in differing)
            + '. Set these in the backbone, the first three in arch with the num_heads of pre-training'
        )


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    if any(anchor not in state or state[anchor].ndim < 2 for anchor in _ANCHORS) or state[_ANCHORS[0]].ndim != 4:
        return {}
    dims, channels, height, width = state[_ANCHORS[0]].shape
    sizes = dict(
        embed_dims=dims,
        num_layers=len({name.split('.')[1] for name in state if name.startswith('layers.')}),
        patch_size=height if height == width else (height, width),
        in_channels=channels,
    )
    feedforward = state.get('layers.0.ffn.layers.0.0.weight')
    return sizes if feedforward is None else {**sizes, 'feedforward_channels': len(feedforward)}


def check_num_heads(checkpoint: Mapping[str, Any], backbone: nn.Module, path: str) -> None:
    """Compare the number of heads, which weights do not show, with the config in the checkpoint."""
    arch = ((stored_config(checkpoint).get('model') or {}).get('backbone') or {}).get('arch')
    arch = VisionTransformer.arch_zoo.get(arch.lower()) if isinstance(arch, str) else arch
    theirs = arch.get('num_heads') if isinstance(arch, dict) else None
    layers: Any = getattr(backbone, 'layers', None)
    ours = getattr(getattr(layers[0], 'attn', None), 'num_heads', None) if layers else None
    if theirs and ours and theirs != ours:
        raise ValueError(
            f'{path} does not fit the backbone, nothing was loaded: num_heads={theirs} in the config of the file, '
            f'{ours} in the backbone. Set it in arch'
        )


def match(names: Collection[str], patterns: str | Sequence[str], option: str) -> set[str]:
    """Return the names that match any pattern, as ``'ln1.*'``; a ValueError names ``option`` if one matches none.

    Example:
        >>> sorted(match({'ln1.bias', 'ln1.weight', 'ln2.bias'}, ['ln1.*'], 'allow_missing'))
        ['ln1.bias', 'ln1.weight']
    """
    matching: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found = {name for name in names if fnmatchcase(name, pattern)}
        if not found:
            raise ValueError(f'{option}={pattern!r} matches none of {collapse(sorted(names))}: remove or correct it')
        matching |= found
    return matching


def generalise(names: Iterable[str]) -> dict[str, list[str]]:
    """Group names by patterns that match them, and the same names in other layers.

    Example:
        >>> generalise(['layers.0.attn.qkv.bias', 'layers.1.attn.qkv.bias', 'ln1.bias'])
        {'layers.*.attn.qkv.bias': ['layers.0.attn.qkv.bias', 'layers.1.attn.qkv.bias'], 'ln1.bias': ['ln1.bias']}
    """
    groups = defaultdict(list)
    for name in names:
        groups[_NUMBER.sub('*', name, count=1)].append(name)
    return dict(groups)


def collapse(names: Iterable[str]) -> list[str]:
    """Return names in short: of those that differ in their first number one pattern and how many there are.

    Example:
        >>> collapse(['norm.weight', *(f'layers.{i}.attn.qkv.bias' for i in range(4))])
        ['norm.weight', 'layers.*.attn.qkv.bias (4)']
    """
    groups = generalise(names).items()
    return [group[0] if len(group) == 1 else f'{pattern} ({len(group)})' for pattern, group in groups]
