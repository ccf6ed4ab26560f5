"""Read the Vision Transformers that mmpretrain has pre-trained by other methods.

Our backbone has no class token, so what belongs to it is dropped and patches attend to each other only. Everything else
of a checkpoint is used, and everything that is not used is named. ``docs/peers.md`` lists both for each method.
"""

import math
import re
from collections.abc import Mapping

from torch import Tensor, nn

from randsac_mm.transfer.resize import resize_bias_table, resize_positions

_CLASS_ROWS = 3  # of BEiT's tables, after all offsets: class to patch, patch to class, class to class
_TABLE = 'relative_position_bias_table'
_SHARED = f'rel_pos_bias.{_TABLE}'
_DROPPED = {  # patterns of whole keys
    r'cls_token': 'class token, dropped',
    r'dist_token': 'distillation token, dropped',
    r'mask_token': 'mask token of the pre-training, dropped',
    r'(.+\.)?relative_position_index': 'index of a table, dropped: it follows from the grid',
    r'momentum_encoder\..+': 'momentum encoder, dropped',
    r'teacher\..+': 'teacher, dropped',
    r'target_generator\..+': 'makes the targets of the pre-training, dropped',
    r'neck\..+': 'neck of the pre-training, dropped',
    r'(head|decode_head|auxiliary_head)\..+': 'head, dropped',
}
NORMS = {  # the two norms that a file may have and a backbone not
    'ln1.': 'norm after the last layer, dropped: the backbone has final_norm=False',
    'ln2.': "norm of the averaged tokens, dropped: only a backbone with out_type='avg_featmap' has it",
}


def convert(state: Mapping[str, Tensor], backbone: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Turn the weights of one of mmpretrain's Vision Transformers into those of our backbone.

    The grid of learned positions and tables is taken to be square, as all of mmpretrain's are. What the backbone needs
    and the checkpoint lacks stays missing, and what is not known is passed on: loading strictly finds both. Weights
    without class token, such as our own saved ones, need no change and get none.

    Args:
        state: Weights of mmpretrain's class for ``backbone.method``, without prefix. Not written to.
        backbone: The :class:`randsac_mm.models.RandSACViT` that they are for.

    Returns:
        The weights under the backbone's names, and for each key of ``state`` that is not used as it is, by the same
        name, a few words about what became of it.

    Raises:
        ValueError: If the keys belong to another method than the backbone's, positions or tables have no square grid,
            or the table layout (one for all layers, or one for each) does not suit the backbone.

    Example:
        >>> from randsac_mm.models import RandSACViT
        >>> vit = RandSACViT('deit-tiny', img_size=32, method='mae')
        >>> theirs = {**vit.state_dict(), 'cls_token': vit.pos_embed[:, :1]}
        >>> theirs['pos_embed'] = theirs['pos_embed'].repeat(1, 2, 1)[:, -5:]
        >>> convert(theirs, vit)[1]['cls_token']
        'class token, dropped'
    """
    likely = likely_methods(state, backbone)
    if likely and backbone.method not in likely:
        names = ' or '.join(f"method='{name}'" for name in likely)
        raise ValueError(
            f"the backbone has method='{backbone.method}', but the checkpoint looks like one for {names}: set that in "
            'the config of the backbone, or choose another checkpoint'
        )
    own = backbone.state_dict()
    converted, fates = {}, {}
    for key, value in state.items():
        dropped = next((fate for pattern, fate in _DROPPED.items() if re.fullmatch(pattern, key)), None)
        norm = next((fate for prefix, fate in NORMS.items() if key.startswith(prefix) and key not in own), None)
        if dropped or norm:
            fates[key] = dropped or norm
        elif key == 'pos_embed':
            converted[key], fate = _convert_positions(value, _extra_tokens(state), backbone)
            fates |= {key: fate} if fate else {}
        elif key.endswith(_TABLE):
            tables, fate = _convert_table(key, value, _CLASS_ROWS * ('cls_token' in state), own, backbone)
            converted |= tables
            fates |= {key: fate} if fate else {}
        elif match := re.fullmatch(r'(.+\.)([qv])_bias', key):
            start, joint = match[1], f'{match[1]}qkv.bias'
            if {f'{start}q_bias', f'{start}v_bias'} <= state.keys() and joint not in state:
                query, values = state[f'{start}q_bias'], state[f'{start}v_bias']
                converted[joint] = _join(query, values)
                fates[key] = 'joined in qkv.bias, where the keys have zeros'
            else:
                converted[key] = value
        else:
            converted[key] = value
    return converted, fates


def _join(query: Tensor, values: Tensor) -> Tensor:
    """Join the biases (D,) of queries and values to one (3 * D,); keys without bias are keys with zeros."""
    joint = query.new_zeros(3 * len(query))
    joint[: len(query)], joint[-len(values) :] = query, values
    return joint


def _extra_tokens(state: Mapping[str, Tensor]) -> int:
    """Count the tokens before the patches: class and distillation token."""
    return sum(key in state for key in ('cls_token', 'dist_token'))


def _side(count: int, what: str) -> int:
    """Give the side of a square grid with ``count`` places."""
    side = math.isqrt(max(count, 0))
    if not count or side * side != count:
        raise ValueError(
            f'{what}, and {count} places are no square grid: only checkpoints of square images can be converted'
        )
    return side


def _describe(source: tuple[int, int], target: tuple[int, int]) -> str:
    if source == target:
        return f'kept at {source[0]} x {source[1]}'
    return f'resized {source[0]} x {source[1]} -> {target[0]} x {target[1]}'


def _convert_positions(value: Tensor, extra: int, backbone: nn.Module) -> tuple[Tensor, str]:
    """Drop the extra tokens' positions; make fixed ones for the backbone's grid, resize learned ones to it."""
    if value.ndim != 3 or value.shape[2] != backbone.embed_dims:
        return value, ''  # loading reports it
    patches, target = value[:, extra:], backbone.patch_resolution
    if not extra and patches.shape[1] == math.prod(target):
        return value, ''
    dropped = {0: '', 1: "class token's place dropped, "}.get(extra, f'places of {extra} extra tokens dropped, ')
    if backbone.positions == 'learned':
        side = _side(patches.shape[1], f'pos_embed holds {value.shape[1]} positions, {extra} of them not of patches')
        source = (side, side)
        return resize_positions(patches, source, target), f'{dropped}{_describe(source, target)}'
    axis = backbone.fixed_axis(patches)
    if axis is None:
        raise ValueError(
            f"pos_embed, shape {tuple(value.shape)}, was trained, but method='{backbone.method}' has fixed sine-cosine "
            'positions: take the checkpoint of the pre-training, not of a fine-tuned model'
        )
    made = f'fixed sine-cosine positions ({axis} in the first half), made for {target[0]} x {target[1]}'
    return backbone.fixed_positions(axis), f'{dropped}{made}'


def _convert_table(key: str, value: Tensor, extra: int, own: dict, backbone: nn.Module) -> tuple[dict, str]:
    """Drop the class token's rows of a table, resize it, and copy a shared one to all layers that have their own."""
    targets = [key]
    if key == _SHARED and key not in own:
        targets = [name for name in own if name.endswith(_TABLE)]
    elif key not in own and _SHARED in own:
        raise ValueError(
            f"{key} belongs to one layer, but the backbone has rel_pos_bias='shared': set rel_pos_bias='layer'"
        )
    unknown = not set(targets) <= own.keys()  # of a layer too many, for example: loading reports it
    if unknown or (not extra and key in own and len(value) == len(own[key])):
        return {key: value}, ''
    what = f'{key} has {len(value)} rows, {extra} of them for the class token'
    width = _side(len(value) - extra, what)
    if width % 2 == 0:
        raise ValueError(f'{what}, and {width} x {width} offsets belong to no grid: their number is odd')
    source = ((width + 1) // 2,) * 2
    tables, seen = {}, []
    for name in targets:
        grid = backbone.get_submodule(name.removesuffix(f'.{_TABLE}')).bias_grid
        tables[name] = resize_bias_table(value[: width * width], source, grid).clone()  # layers share no memory
        seen.append(_describe(source, grid))
    dropped = f"class token's {extra} rows dropped, " if extra else ''
    copied = f'copied to each of {len(targets)} layers, ' if targets != [key] else ''
    return tables, f'{dropped}{copied}{" or ".join(dict.fromkeys(seen))}'


def likely_methods(state: Mapping[str, Tensor], backbone: nn.Module) -> tuple[str, ...]:
    """Tell by the keys of a checkpoint which of mmpretrain's methods has made it.

    Args:
        state: Weights of a backbone, without prefix.
        backbone: A :class:`randsac_mm.models.RandSACViT`, which knows fixed positions when it sees them.

    Returns:
        Values of ``method`` that the weights suit, all that cannot be told apart. None if the keys do not tell, as
        those of our own weights of any method.
    """
    if 'cls_token' not in state:  # our own weights
        return ()
    tables = any(key.endswith(_TABLE) for key in state)
    if tables or any(key.endswith('.gamma_1') for key in state):
        if 'pos_embed' in state:
            return ('cae',)
        return ('beitv2',) if tables else ('beitv2', 'cae')  # truncated: loading says what is missing
    if 'dist_token' in state:
        return ('deit',)
    if 'mask_token' in state:
        return ('maskfeat',)
    if any(key.startswith('momentum_encoder.') for key in state):
        return ('mocov3',)
    positions = state.get('pos_embed')
    if positions is None or positions.ndim != 3 or positions.shape[2] != backbone.embed_dims:
        return ()
    axis = backbone.fixed_axis(positions[:, _extra_tokens(state) :])
    return ('deit', 'maskfeat') if axis is None else ('mae', 'mocov3')
