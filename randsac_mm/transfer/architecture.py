"""Which Vision Transformer a state dict belongs to, read from its shapes."""

import ast
from collections.abc import Mapping
from typing import Any, NamedTuple

from mmpretrain.models.backbones import VisionTransformer
from torch import Tensor, nn

# What every Vision Transformer with mmpretrain's names has.
ANCHORS = ('patch_embed.projection.weight', 'layers.0.attn.qkv.weight')
_FEEDFORWARD = 'layers.0.ffn.layers.0.0.weight'


class Architecture(NamedTuple):
    """Hold the sizes of a Vision Transformer that its weights tell; the number of heads is not among them.

    Attributes:
        embed_dims: Width D of the tokens.
        num_layers: Number of layers.
        feedforward_channels: Width inside the feed-forward networks; None if they are of another kind.
        patch_size: Height and width of a patch, in pixels.
        in_channels: Number of image channels C.
    """

    embed_dims: int
    num_layers: int
    feedforward_channels: int | None
    patch_size: tuple[int, int]
    in_channels: int


def read_architecture(state: Mapping[str, Tensor]) -> Architecture | None:
    """Read the sizes of a Vision Transformer from its weights.

    Args:
        state: Weights of a backbone, without prefix.

    Returns:
        The sizes; None if these are not the weights of a Vision Transformer.
    """
    if any(anchor not in state for anchor in ANCHORS) or state[ANCHORS[0]].ndim != 4:
        return None
    dims, channels, height, width = state[ANCHORS[0]].shape
    layers = {name.split('.')[1] for name in state if name.startswith('layers.')}
    inner = len(state[_FEEDFORWARD]) if _FEEDFORWARD in state else None
    return Architecture(dims, len(layers), inner, (height, width), channels)


def check_architecture(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str) -> None:
    """Compare the sizes of weights with those of the backbone that they are for.

    Args:
        state: Weights from a file, without prefix.
        own: Weights of the backbone.
        path: The file, for the error.

    Raises:
        ValueError: If both are Vision Transformers and their sizes differ; each size is named with what to set.
    """
    theirs, ours = read_architecture(state), read_architecture(own)
    if theirs is None or ours is None:
        return
    lines = []
    sizes = ('embed_dims', 'num_layers', 'feedforward_channels')
    known = [size for size in sizes if None not in (getattr(theirs, size), getattr(ours, size))]
    if any(getattr(theirs, size) != getattr(ours, size) for size in known):
        saved = ', '.join(f'{size}={getattr(theirs, size)}' for size in known)
        built = ', '.join(f'{size}={getattr(ours, size)}' for size in known)
        lines.append(
            f'another architecture: the file has {saved}, the backbone has {built}. Set arch=dict({saved}, '
            'num_heads=...) in the backbone, with as many heads as in pre-training: the weights do not tell how many'
        )
    if theirs.patch_size != ours.patch_size:
        saved, built = (f'{size[0]} x {size[1]}' for size in (theirs.patch_size, ours.patch_size))
        lines.append(
            f'another patch size: {saved} pixels in the file, {built} in the backbone. Set '
            f'patch_size={theirs.patch_size[0]} in the backbone, and in the ViTPyramid after it'
        )
    if theirs.in_channels != ours.in_channels:
        lines.append(
            f'another number of image channels: {theirs.in_channels} in the file, {ours.in_channels} in the backbone. '
            f'Set in_channels={theirs.in_channels} in the backbone, and let the data pipeline load such images'
        )
    if lines:
        raise ValueError(f'{path} does not fit the backbone, nothing was loaded:\n  ' + '\n  '.join(lines))


def check_num_heads(checkpoint: Mapping[str, Any], backbone: nn.Module, path: str) -> None:
    """Compare the number of heads, if the checkpoint carries the config that it was trained with.

    The weights of 6 heads fit 12 heads as well, and give features that nobody has trained. mmengine's runners store
    the text of the config; it is searched, not executed.

    Args:
        checkpoint: All that the file holds.
        backbone: The backbone that the weights are for.
        path: The file, for the error.

    Raises:
        ValueError: If both numbers are known and differ.
    """
    theirs = _stored_num_heads(checkpoint)
    try:
        ours = backbone.layers[0].attn.num_heads
    except (AttributeError, IndexError, TypeError):
        return
    if theirs not in (None, ours):
        raise ValueError(
            f'{path} does not fit the backbone, nothing was loaded:\n  another number of heads: num_heads={theirs} in '
            f'the config that the file carries, {ours} in the backbone. Set num_heads={theirs} in its arch'
        )


def _stored_num_heads(checkpoint: Mapping[str, Any]) -> int | None:
    """Find ``model = dict(backbone=dict(arch=...))`` in the config of a checkpoint, and the heads in it."""
    meta = checkpoint.get('meta')
    text = meta.get('cfg') if isinstance(meta, dict) else None
    try:
        statements = ast.parse(text).body if isinstance(text, str) else []
    except (SyntaxError, ValueError):
        return None
    for statement in statements:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == 'model':
            arch = _argument(_argument(statement.value, 'backbone'), 'arch')
            if isinstance(arch, ast.Constant):
                return VisionTransformer.arch_zoo.get(str(arch.value).lower(), {}).get('num_heads')
            heads = _argument(arch, 'num_heads')
            return heads.value if isinstance(heads, ast.Constant) else None
    return None


def _argument(call: ast.expr | None, name: str) -> ast.expr | None:
    keywords = call.keywords if isinstance(call, ast.Call) else []
    return next((keyword.value for keyword in keywords if keyword.arg == name), None)
