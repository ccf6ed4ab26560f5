"""Attention maps: where tokens of the plain encoder look, layer by layer and head by head.

The encoder's fused kernels never form the attention weights, so they are computed here, from queries and keys.
L layers, B images, h heads, N tokens.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from randsac_mm.models import RandSACViT
from randsac_mm.models.options import layer_indices

from .canvas import ACCENT, beside, captioned, cell_size, enlarge, frame, heat, paragraph, save, stacked
from .loading import evaluating, to_pixels

_SIDE = 132  # pixels of a panel's longer side
_DEFAULT_LAYERS = 4
_NOTE = (
    'Attention of the encoder without any mask. Bright: much attention. Each map is scaled by its own maximum, which '
    'its caption gives in multiples of even attention to all tokens. Rollout: the maps of all layers (mean over heads, '
    'half of it identity, for the residual connection), multiplied.'
)


class States(NamedTuple):
    """Hold what a layer of the plain encoder reads and writes, each (B, N, D), and the layer's number from 0."""

    layer: int
    before: Tensor
    after: Tensor


def plain_states(backbone: RandSACViT, images: Tensor) -> Iterator[States]:
    """Run the plain encoder, without mask, one layer at a time.

    Args:
        backbone: The encoder; its own mode decides on dropped paths.
        images: Normalised images (B, C, H, W).

    Yields:
        The states around each layer. The last ``after`` is not normalised.

    Raises:
        ValueError: If the encoder has windows or relative position biases, or the images do not fit it.
    """
    if backbone.window_size or backbone._biased:
        raise ValueError(
            f'a backbone with window_size={backbone.window_size} or a relative position bias is for transfer: '
            'these pictures are made of plain ViTs, as pre-training has them'
        )
    x = backbone.embed(images)
    for i, layer in enumerate(backbone.layers):
        before, x = x, layer(x)
        yield States(i, before, x)


def attention_weights(backbone: RandSACViT, images: Tensor) -> Tensor:
    """Compute who attends to whom: softmax(q k / sqrt(d)) of every layer and head.

    Args:
        backbone: The encoder, run in evaluation mode.
        images: Normalised images (B, C, H, W).

    Returns:
        Weights (L, B, h, N, N) of query and key, tokens in raster order, float32; every row sums to 1.

    Raises:
        ValueError: See :func:`plain_states`.
    """
    with evaluating(backbone):
        return torch.stack(
            [
                _weights(backbone.layers[state.layer].attn, backbone.layers[state.layer].ln1(state.before))
                for state in plain_states(backbone, images)
            ]
        )


def _weights(attention: torch.nn.Module, x: Tensor) -> Tensor:
    """Give the weights (B, h, N, N) of a self-attention that reads tokens (B, N, D)."""
    q, k, _ = attention.qkv(x).float().unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)


def attention_rollout(weights: Tensor) -> Tensor:
    """Follow attention through all layers, as if layers only passed on what they read.

    Args:
        weights: Attention of all layers (L, B, h, N, N), from the first.

    Returns:
        For each token after the last layer, how much of each input token it holds (B, N, N); rows sum to 1.

    Example:
        >>> attention_rollout(torch.tensor([[0.0, 1.0], [0.0, 1.0]]).reshape(1, 1, 1, 2, 2))[0]
        tensor([[0.5000, 0.5000],
                [0.0000, 1.0000]])
    """
    identity = torch.eye(weights.shape[-1], device=weights.device)
    total = identity.expand(weights.shape[1], -1, -1)
    for layer in weights.mean(2):
        total = (0.5 * layer + 0.5 * identity) @ total
    return total


def attention_statistics(weights: Tensor, grid: tuple[int, int]) -> dict[str, list[list[float]]]:
    """Say in numbers how wide each head looks.

    Args:
        weights: Attention (L, B, h, N, N).
        grid: Height and width of the token grid.

    Returns:
        Means over images and queries, a list of heads for each layer: ``mean_distance``, between query and keys, in
        tokens; ``entropy``, in nats, of at most log(N).
    """
    rows, columns = torch.meshgrid(*map(torch.arange, grid), indexing='ij')
    places = torch.stack([rows.flatten(), columns.flatten()], 1).float()
    distance = torch.cdist(places, places).to(weights.device)
    return {
        'mean_distance': (weights * distance).sum(-1).mean((1, 3)).tolist(),
        'entropy': torch.special.entr(weights).sum(-1).mean((1, 3)).tolist(),
    }


def draw_attention(
    model: torch.nn.Module,
    inputs: Tensor,
    path: str | Path,
    query: tuple[int, int] | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    heads_path: str | Path | None = None,
) -> dict:
    """Draw where one token, and the average token, look.

    For every image two rows: attention of the query token, which is framed, and averaged over all queries, since there
    is no class token; both averaged over heads. With ``heads_path`` a second picture has a row for each layer and a
    panel for each head, from the query token.

    Args:
        model: A pre-training model; its backbone is run in evaluation mode, without a mask.
        inputs: Normalised images (B, C, H, W).
        path: Where the PNG goes.
        query: Row and column of the token that looks. None: the centre.
        layers: Layers from 0; negative ones count from the end. None: four, evenly spaced, the last among them.
        heads: Heads from 0, to average over and to draw. None: all.
        heads_path: Where the PNG of single heads goes. None: it is not drawn.

    Returns:
        What was drawn, in plain values, with :func:`attention_statistics` of all layers and heads.

    Raises:
        ValueError: If there is no such token, layer or head, or the backbone is no plain ViT.
    """
    backbone = model.backbone
    grid = backbone.grid_of(inputs)
    query = (grid[0] // 2, grid[1] // 2) if query is None else tuple(query)
    if not (0 <= query[0] < grid[0] and 0 <= query[1] < grid[1]):
        raise ValueError(f'query={query} is no token: rows go from 0 to {grid[0] - 1}, columns from 0 to {grid[1] - 1}')
    layers = _choose('layers', layers, backbone.num_layers, _DEFAULT_LAYERS)
    num_heads = backbone.layers[0].attn.num_heads
    heads = _choose('heads', heads, num_heads, num_heads)
    images = to_pixels(model, inputs)
    sums, rows, head_rows = [], [], []
    for image, single in zip(images, inputs, strict=True):  # one by one: weights are large
        weights = attention_weights(backbone, single[None].to(next(model.parameters()).device)).cpu()
        sums.append(attention_statistics(weights, grid))
        panels = _Panels(image, grid, query)
        mean = weights[layers][:, 0][:, heads].mean(1)  # (layers, N, N)
        maps = [*mean, attention_rollout(weights)[0]]
        names = [*(f'layer {i + 1}' for i in layers), 'rollout']
        rows.append(panels.row('query', [m[panels.place] for m in maps], names))
        rows.append(panels.row('all queries', [m.mean(0) for m in maps], names))
        for i in layers if heads_path is not None else ():
            of_layer = weights[i, 0, heads, panels.place]
            head_rows.append(panels.row(f'layer {i + 1}', list(of_layer), [f'head {k + 1}' for k in heads]))
    save(stacked([*rows, paragraph(_NOTE, rows[0].width, 14)]), path)
    if heads_path is not None:
        width = max(head_rows[0].width, 600)
        save(stacked([*head_rows, paragraph(_NOTE.split(' Rollout')[0], width, 14)]), heads_path)
    return {
        'query': list(query),
        'layers': layers,
        'heads': heads,
        'statistics': {
            'note': 'means over images and queries; [layer][head]; distance in tokens, entropy in nats',
            'entropy_of_even_attention': float(np.log(grid[0] * grid[1])),
            **{key: np.mean([s[key] for s in sums], axis=0).tolist() for key in sums[0]},
        },
    }


class _Panels:
    """Draw maps over one image."""

    def __init__(self, image: np.ndarray, grid: tuple[int, int], query: tuple[int, int]) -> None:
        self.image, self.grid, self.cell = image, grid, cell_size(grid, _SIDE)
        self.place = query[0] * grid[1] + query[1]
        large = enlarge(image, grid, self.cell)
        self.plain = {'all queries': large}
        self.inside = np.zeros(large.shape[:2], bool)
        y, x = query[0] * self.cell, query[1] * self.cell
        self.inside[y : y + self.cell, x : x + self.cell] = True

    def row(self, name: str, maps: Sequence[Tensor], names: Sequence[str]) -> object:
        """Draw the image and maps (N,) beside it."""
        first = self.plain.get(name, frame(self.plain['all queries'], self.inside, ACCENT, 2))
        panels = [captioned(first, name, 13)]
        for values, caption in zip(maps, names, strict=True):
            top = values.max().item()
            panel = heat(self.image, (values / top).numpy(), self.grid, self.cell)
            if name not in self.plain:
                panel = frame(panel, self.inside, ACCENT, 2)
            panels.append(captioned(panel, f'{caption}, {top * len(values):.1f} x', 13))
        return beside(panels, gap=8)


def _choose(name: str, choice: Sequence[int] | None, count: int, default: int) -> list[int]:
    """Count chosen layers or heads from 0; by default some that are evenly spaced, the last among them."""
    if choice is None:
        return sorted({round(i) for i in np.linspace(0, count - 1, min(default, count))})
    if not len(choice):
        raise ValueError(f'{name}={list(choice)} is empty: name at least one, from 0 to {count - 1}')
    if name == 'layers':
        return layer_indices(name, choice, count)
    for i in choice:
        if not 0 <= i < count:
            raise ValueError(f'{name}={list(choice)} names head {i}, but they go from 0 to {count - 1}')
    return list(choice)
