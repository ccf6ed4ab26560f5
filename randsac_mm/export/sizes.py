"""What the weights, the config and the options say together, and errors where they disagree or are silent."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from randsac_mm.export.stored import Facts
from randsac_mm.models.positions import find_first_axis, sincos_positions
from randsac_mm.transfer.architecture import Architecture

_SIZES = ('embed_dims', 'num_layers', 'feedforward_channels')


def find_method(state: Mapping[str, Tensor], path: str | Path) -> str:
    """Tell by its weights which ``method`` of :class:`randsac_mm.models.RandSACViT` an encoder belongs to.

    Args:
        state: Weights without prefix.
        path: Their file, for the error.

    Returns:
        ``'randsac'`` or ``'mae'`` (fixed positions, columns or rows first), ``'cae'`` (with layer scale) or ``'deit'``
        (learned positions).

    Raises:
        ValueError: If no target of an export can compute what these weights compute here.
    """
    if any(key.endswith('relative_position_bias_table') for key in state):
        raise ValueError(
            f'{path} has relative position biases, which none of the targets has. Export an encoder without '
            "rel_pos_bias, and of another method than 'beitv2' and 'cae' fine-tuned with tables"
        )
    if 'cls_token' in state:
        raise ValueError(
            f'{path} has a class token: it comes from another project. Load it into a RandSACViT by its method=..., '
            'which drops the token, and export what you have trained with that'
        )
    if 'pos_embed' not in state:
        raise ValueError(f'{path} has no positions (pos_embed): it is no backbone of ours, or not all of one')
    axis = find_first_axis(state['pos_embed'], 'columns')
    if axis is None:
        return 'deit'
    if axis == 'columns':
        return 'randsac'
    return 'cae' if 'layers.0.gamma_1' in state else 'mae'


def merge_facts(stored: Facts, given: Facts | None, path: str | Path, config: str | Path | None) -> Facts:
    """Put the facts of a config that the user names before those of the one in the checkpoint.

    Raises:
        ValueError: If both tell the number of heads and differ.
    """
    if given is None:
        return stored
    theirs, ours = stored.arch.get('num_heads'), given.arch.get('num_heads')
    if None not in (theirs, ours) and theirs != ours:
        raise ValueError(
            f'--config {config} has num_heads={ours}, but {path} was trained with num_heads={theirs}, as the config in '
            'it says. Give the config of that run, or none'
        )
    return Facts(
        arch=stored.arch | given.arch,
        **{name: getattr(given, name) or getattr(stored, name) for name in Facts._fields if name != 'arch'},
    )


def check_sizes(sizes: Architecture, facts: Facts, patch_size: int | None, path: str | Path) -> None:
    """Raise ValueError if the weights are of another kind or size than the config or an option says."""
    if sizes.feedforward_channels is None:
        raise ValueError(
            f'{path} has feed-forward networks of another kind than two linear layers, which no target has'
        )
    height, width = sizes.patch_size
    if height != width:
        raise ValueError(f'{path} has patches of {height} x {width} pixels; only square ones can be exported')
    for who, claimed in (('the config has', facts.patch_size), ('--patch-size is', patch_size)):
        if claimed not in (None, height):
            raise ValueError(
                f'{who} {claimed}, but the patches of {path} are {height} pixels wide: leave --patch-size out, and '
                'name the config of this checkpoint'
            )
    for size in _SIZES:
        theirs, ours = facts.arch.get(size), getattr(sizes, size)
        if theirs not in (None, ours):
            raise ValueError(
                f'the config has {size}={theirs}, but the weights of {path} have {ours}: name the config of this '
                'checkpoint'
            )
    if facts.window_size:
        raise ValueError(
            f'{path} attends in windows (window_size={facts.window_size}), which none of the targets does. Export the '
            'checkpoint that it started from, or fine-tune with window_size=0'
        )


def find_heads(embed_dims: int, known: int | None, asked: int | None, path: str | Path) -> int:
    """Give the number of heads.

    Args:
        embed_dims: Width D.
        known: What the config says.
        asked: What the option says.
        path: The checkpoint, for the error.

    Raises:
        ValueError: If both are None, or they differ.

    Example:
        >>> find_heads(12, None, 3, 'a.pth')
        3
    """
    if known is None and asked is None:
        raise ValueError(
            f'{path} does not tell its number of heads, and {embed_dims} channels suit several: give --num-heads, or '
            '--config with the config that it was trained by'
        )
    if None not in (known, asked) and known != asked:
        raise ValueError(
            f'--num-heads {asked} contradicts the config of {path}, which has num_heads={known}: leave it out'
        )
    return asked if known is None else known


def find_image_sizes(
    positions: Tensor,
    fixed: bool,
    patch_size: int,
    facts: Facts,
    asked: int | Sequence[int] | None,
    path: str | Path,
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Give the image size of the positions in a checkpoint, and that to export for.

    Args:
        positions: Positions (1, N, D).
        fixed: Whether they are fixed sine-cosine ones, which tell their grid.
        patch_size: Side P of a patch, in pixels.
        facts: What the config says.
        asked: ``--img-size``.
        path: The checkpoint, for the error.

    Returns:
        Both as height and width in pixels.

    Raises:
        ValueError: If the size of learned positions is unknown, or the config says another size than the positions.
    """
    wanted = _size(asked)
    if fixed:
        rows, columns = find_grid(positions)
        trained = (rows * patch_size, columns * patch_size)
        if facts.img_size not in (None, trained):
            raise ValueError(
                f'the config has img_size={facts.img_size}, but the positions of {path} are those of {trained} pixels: '
                'name the config of this checkpoint'
            )
        return trained, wanted or trained
    trained = facts.img_size or wanted
    tokens = positions.shape[1]
    if trained is None:
        raise ValueError(
            f'{path} has learned positions of {tokens} tokens, which do not tell their rows and columns: give '
            '--img-size HEIGHT WIDTH of the training, or --config'
        )
    if (trained[0] // patch_size) * (trained[1] // patch_size) != tokens:
        raise ValueError(
            f'{path} has learned positions of {tokens} tokens, but {trained[0]} x {trained[1]} pixels have '
            f'{trained[0] // patch_size} x {trained[1] // patch_size} patches of {patch_size}: give the size, or '
            'the config, of the training'
        )
    return trained, wanted or trained


def find_grid(positions: Tensor) -> tuple[int, int]:
    """Give rows and columns of fixed sine-cosine positions (1, N, D), as :func:`find_first_axis` has recognised them.

    Example:
        >>> find_grid(sincos_positions((9, 16), 8))
        (9, 16)
    """
    axis = find_first_axis(positions, 'columns')
    tokens, dims = positions.shape[1:]
    errors = {
        rows: (positions.float() - sincos_positions((rows, tokens // rows), dims, first=axis)).abs().max().item()
        for rows in range(1, tokens + 1)
        if tokens % rows == 0
    }
    rows = min(errors, key=errors.__getitem__)
    return rows, tokens // rows


def find_normalisation(
    facts: Facts,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    channels: int,
    path: str | Path,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Give mean and standard deviation of each of C channels, in pixel values 0 .. 255.

    Raises:
        ValueError: If they are unknown, only one is given, or they do not fit the channels.
    """
    if (mean is None) != (std is None):
        raise ValueError('--mean and --std belong together: give both, or neither')
    mean, std = (facts.mean, facts.std) if mean is None else (mean, std)
    if mean is None or std is None:
        raise ValueError(
            f'{path} does not tell how its images were normalised: give --mean and --std, in pixel values 0 .. 255, or '
            '--config with the config that it was trained by'
        )
    for name, values in (('mean', mean), ('std', std)):
        if len(values) not in (1, channels):
            raise ValueError(
                f'{name}={tuple(values)} has {len(values)} values, but the images have {channels} channels'
            )
    if not all(value > 0 for value in std) or not torch.tensor([*mean, *std]).isfinite().all():
        raise ValueError(f'mean={tuple(mean)} and std={tuple(std)} must be finite, and std positive')
    mean, std = (tuple(map(float, values)) * (channels // len(values)) for values in (mean, std))
    return mean, std


def _size(asked: int | Sequence[int] | None) -> tuple[int, int] | None:
    if asked is None:
        return None
    sizes = [asked] if isinstance(asked, int) else list(asked)
    if len(sizes) not in (1, 2) or min(sizes) < 1:
        raise ValueError(
            f'--img-size {" ".join(map(str, sizes))} must be one or two positive numbers, height and width'
        )
    return sizes[0], sizes[-1]
