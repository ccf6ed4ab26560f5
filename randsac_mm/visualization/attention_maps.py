"""Attention maps: where tokens of the encoder look, layer by layer and head by head.

The encoder's fused kernels never form the attention weights, so they are computed here, from queries and keys.
L layers, B images, h heads, N tokens.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from randsac_mm.models import RandSAC, RandSACViT
from randsac_mm.models.backbone import layer_indices

from .figures import ACCENT, Grid, panel_figure, save_figure, show, show_grey
from .inputs import evaluating, to_pixels

_SIDE = 132  # pixels of a panel's longer side
_NOTE = (
    'Attention of the encoder without any mask. Bright: much attention; each map is scaled by its own maximum, which '
    'its caption states in multiples of even attention to all tokens. Rollout: product of the maps of all layers '
    '(mean over heads, half identity for the residual branch).'
)


def attention_weights(backbone: RandSACViT, images: Tensor) -> Tensor:
    """Compute softmax(q k / sqrt(d)) (L, B, h, N, N), float32, for normalised images (B, C, H, W), without a mask."""
    found: list[Tensor] = []

    def keep(attention: torch.nn.Module, args: tuple) -> None:
        q, k, _ = attention.qkv(args[0]).float().unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        found.append((q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1))

    with evaluating(backbone), contextlib.ExitStack() as hooks:
        for layer in backbone.layers:
            hooks.enter_context(layer.attn.register_forward_pre_hook(keep))
        backbone(images)
    return torch.stack(found)


def attention_rollout(weights: Tensor) -> Tensor:
    """Return the share of each input token in each output token (B, N, N), if layers only passed on what they read."""
    identity = torch.eye(weights.shape[-1], device=weights.device)
    total = identity.expand(weights.shape[1], -1, -1)
    for layer in weights.mean(2):
        total = (0.5 * layer + 0.5 * identity) @ total
    return total


def attention_statistics(weights: Tensor, grid: Grid) -> dict[str, list[list[float]]]:
    """Measure how wide each head looks, from attention (L, B, h, N, N).

    Returns:
        Means over images and queries, [layer][head]: ``mean_distance`` between query and keys, in tokens; ``entropy``
        in nats, at most log(N).
    """
    places = torch.cartesian_prod(*map(torch.arange, grid)).float()
    distance = torch.cdist(places, places).to(weights.device)
    return {
        'mean_distance': (weights * distance).sum(-1).mean((1, 3)).tolist(),
        'entropy': torch.special.entr(weights).sum(-1).mean((1, 3)).tolist(),
    }


def draw_attention(
    model: RandSAC,
    inputs: Tensor,
    path: str | Path,
    query: tuple[int, int] | None = None,
    layers: Sequence[int] | None = None,
) -> dict:
    """Draw where one token, and the average token, look in normalised images (B, C, H, W), as two PNGs.

    The first has two rows for every image, averaged over heads: attention of the query token, which is framed, and the
    mean over all queries, since there is no class token. The second, ``<name>_heads.png``, shows each head alone.
    ``query`` is the row and column of a token, by default the centre; ``layers`` count from 0, negative ones from the
    end, by default four of them.

    Returns:
        Query, layers, :func:`attention_statistics` of all layers and heads, and a ``note``, in plain values.

    Raises:
        ValueError: If there is no such token or layer.
    """
    backbone, grid = model.backbone, model.backbone.grid(*inputs.shape[2:])
    row, column = query or (grid[0] // 2, grid[1] // 2)
    if not (0 <= row < grid[0] and 0 <= column < grid[1]):
        raise ValueError(f'query={query} is no token: rows go from 0 to {grid[0] - 1}, columns from 0 to {grid[1] - 1}')
    count, place, device = backbone.num_layers, row * grid[1] + column, next(model.parameters()).device
    layers = layer_indices('layers', layers or sorted({*np.linspace(0, count - 1, 4, dtype=int).tolist()}), count)
    names = [f'layer {layer + 1}' for layer in layers]
    heads = [f'head {head + 1}' for head in range(backbone.layers[0].attn.num_heads)]
    mean_figure, mean_axes = panel_figure(2 * len(inputs), len(layers) + 2, grid, _SIDE, _NOTE)
    head_figure, head_axes = panel_figure(len(inputs) * len(layers), len(heads) + 1, grid, _SIDE, _NOTE)
    mean_rows, head_rows, statistics = iter(mean_axes), iter(head_axes), []
    for i, image in enumerate(to_pixels(model, inputs)):  # one by one: weights are large
        weights = attention_weights(backbone, inputs[i : i + 1].to(device)).cpu()
        statistics.append(attention_statistics(weights, grid))
        maps = torch.cat([weights[layers, 0].mean(1), attention_rollout(weights)])
        _draw_row(next(mean_rows), image, grid, (column, row), ['query', *names, 'rollout'], maps[:, place])
        _draw_row(next(mean_rows), image, grid, None, ['all queries', *names, 'rollout'], maps.mean(1))
        for layer, name in zip(layers, names, strict=True):
            _draw_row(next(head_rows), image, grid, (column, row), [name, *heads], weights[layer, 0, :, place])
    save_figure(mean_figure, path)
    save_figure(head_figure, Path(path).with_name(f'{Path(path).stem}_heads.png'))
    means = {key: np.mean([s[key] for s in statistics], axis=0).tolist() for key in statistics[0]}
    means['entropy_of_even_attention'] = float(np.log(grid[0] * grid[1]))
    return {'query': [row, column], 'layers': layers, 'statistics': means, 'note': _NOTE}


def _draw_row(
    axes: Sequence[Axes], image: np.ndarray, grid: Grid, query: tuple | None, names: Sequence[str], maps: Tensor
) -> None:
    """Draw an image and beside it maps (n, N) over the same image in grey; frame the query, (x, y), in all of them."""
    show(axes[0], image, grid, names[0])
    for panel, values, name in zip(axes[1:], maps, names[1:], strict=True):
        top = values.max().item()
        show_grey(panel, image, grid, f'{name}, {top * len(values):.1f} x')
        heat = values.reshape(grid).numpy()
        show(panel, heat, grid, cmap='inferno', vmin=0, vmax=top, alpha=0.7, interpolation='nearest')
    for panel in axes if query else ():
        panel.add_patch(Rectangle(query, 1, 1, fill=False, edgecolor=ACCENT, linewidth=1.5))
