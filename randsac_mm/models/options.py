"""What a backbone can be: its sizes, its layers by number, and whose checkpoints it can read."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from mmpretrain.models.backbones import VisionTransformer

from randsac_mm.transfer import pyramid_indices

from .positions import AxisOrder

_ARCH_KEYS = ('embed_dims', 'num_layers', 'num_heads', 'feedforward_channels')


class Method(NamedTuple):
    """Tell how the Vision Transformers of a pre-training method differ from the plain one.

    Attributes:
        positions: ``'fixed'``: sine-cosine positions. ``'learned'``: trained ones. ``'none'``: no absolute positions.
        first_axis: Which axis the fixed positions encode in the first half of the channels.
        layer_scale: Value that the branches of each layer are multiplied with at first; 0: no such factors.
        rel_pos_bias: Where the relative position bias is: nowhere, in each ``'layer'``, or one ``'shared'`` by all.
        final_norm: Whether its checkpoints hold the norm after the last layer.
    """

    positions: Literal['fixed', 'learned', 'none'] = 'fixed'
    first_axis: AxisOrder = 'rows'
    layer_scale: float = 0.0
    rel_pos_bias: Literal['layer', 'shared'] | None = None
    final_norm: bool = True


# As in mmpretrain's pre-training configs of ViT-B; DeiT is trained with labels.
METHODS = {
    'randsac': Method(first_axis='columns'),
    'mae': Method(),
    'beitv2': Method(positions='none', layer_scale=0.1, rel_pos_bias='shared', final_norm=False),
    'mocov3': Method(),
    'maskfeat': Method(positions='learned'),
    'cae': Method(layer_scale=0.1),
    'deit': Method(positions='learned'),
}


def choose_method(name: str) -> Method:
    """Look up a pre-training method, with an error that lists the choices.

    Example:
        >>> choose_method('maskfeat').positions
        'learned'
    """
    if name not in METHODS:
        raise ValueError(f'method={name!r} is unknown. Choose one of {sorted(METHODS)}')
    return METHODS[name]


def arch_settings(arch: str | dict) -> dict:
    """Look up the sizes of an architecture, with an error that lists the choices.

    Example:
        >>> arch_settings('deit-tiny')['embed_dims']
        192
    """
    if isinstance(arch, str):
        if arch.lower() not in VisionTransformer.arch_zoo:
            known = sorted(VisionTransformer.arch_zoo)
            raise ValueError(f'arch={arch!r} is unknown. Choose one of {known}, or give a dict')
        return VisionTransformer.arch_zoo[arch.lower()]
    if set(arch) != set(_ARCH_KEYS):
        raise ValueError(f'arch={dict(arch)} must have exactly the keys {_ARCH_KEYS}')
    return arch


def layer_indices(name: str, choice: int | str | Sequence[int], num_layers: int) -> list[int]:
    """Count chosen layers from 0.

    Args:
        name: What the choice is called, for the error.
        choice: One index or several, negative ones from the end; or a word for
            :func:`randsac_mm.transfer.pyramid_indices`.
        num_layers: Number of layers.

    Returns:
        Indices from 0 to ``num_layers - 1``.

    Raises:
        ValueError: If there is no such layer.

    Example:
        >>> layer_indices('out_indices', (0, -1), 12)
        [0, 11]
    """
    if isinstance(choice, str):
        return pyramid_indices(choice, num_layers)
    indices = [choice] if isinstance(choice, int) else list(choice)
    for i in indices:
        if not -num_layers <= i < num_layers:
            raise ValueError(f'{name}={indices} names layer {i}, but there are only {num_layers} layers')
    return [i % num_layers for i in indices]


def window_layers(window_size: int, global_layers: int | Sequence[int] | None, num_layers: int) -> list[int]:
    """Tell which layers attend in windows.

    Args:
        window_size: Side of a window in tokens; 0: none.
        global_layers: Layers that see the whole image all the same. None: the ends of four equal groups, as ViTDet.
        num_layers: Number of layers.

    Returns:
        Indices from 0.

    Raises:
        ValueError: If the size is negative, there is no such layer, there are global layers but no windows, or fewer
            than four layers and no choice of global ones.

    Example:
        >>> window_layers(14, None, 12)
        [0, 1, 3, 4, 6, 7, 9, 10]
    """
    if not isinstance(window_size, int) or window_size < 0:
        raise ValueError(f'window_size={window_size!r} must be a number of tokens, or 0 for attention without windows')
    if not window_size:
        if global_layers is not None:
            raise ValueError(
                f'global_layers={global_layers} chooses the layers without windows, but there are no windows: set '
                'window_size, or leave global_layers out'
            )
        return []
    if global_layers is None and num_layers < 4:
        raise ValueError(f'num_layers={num_layers} are too few for four global ones: name them in global_layers')
    chosen = 'detection' if global_layers is None else global_layers
    kept = layer_indices('global_layers', chosen, num_layers)
    return [i for i in range(num_layers) if i not in kept]
