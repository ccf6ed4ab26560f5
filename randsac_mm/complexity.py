"""Parameters and multiply-adds of a RandSAC model for one image (paper appendix A.3, Tables 10 and 11).

Multiply-adds are those of the matrix products, in linear layers and attention. N: tokens of a part; D: its width.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from mmpretrain.structures import DataSample
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from randsac_mm.models import RandSAC, TwoStreamRandSAC
from randsac_mm.segments import needed_tokens, sorted_layout


class Cost(NamedTuple):
    """Parameters of one part of a model and its multiply-adds for one image.

    In pre-training the last segment does not enter the encoder, nor the first the decoder. If segments vary in size,
    ``executed`` counts what an average image needs; most batches execute a little more, see :meth:`RandSAC.loss`.
    """

    parameters: int  # without fixed positions
    executed: int  # in pre-training
    all_tokens: int  # with all tokens everywhere, as in Table 11


def complexity(model: RandSAC) -> dict[str, Cost]:
    """Compute the cost of every part of a model by formula, for images of the backbone's ``img_size``.

    Returns:
        Costs of ``encoder`` (with patch embedding), ``decoder`` (without skip connections), ``skip``, ``head`` and
        ``total``. The two-stream baseline's query stream, which has the encoder's parameters, is its ``decoder``.
    """
    tokens, seen = math.prod(model.backbone.patch_resolution), _seen_tokens(model)
    executed, all_tokens = _products(model, seen, last_content=False), _products(model, tokens, last_content=True)
    skip = _parameters(getattr(model.neck, 'skip', None))
    parameters = {
        'encoder': _parameters(model.backbone),
        'decoder': _parameters(model.neck) - skip,
        'skip': skip,
        'head': _parameters(model.head),
    }
    costs = {part: Cost(parameters[part], executed[part], all_tokens[part]) for part in parameters}
    return {**costs, 'total': Cost(*map(sum, zip(*costs.values(), strict=True)))}


@torch.no_grad()
def measure(model: RandSAC) -> dict[str, int]:
    """Count the executed multiply-adds of each part by running a model; both streams of two count as ``encoder``."""
    inputs = torch.zeros(1, model.backbone.in_channels, *model.backbone.img_size)
    rank = model.data_preprocessor.draw(inputs)['rank']
    layout = sorted_layout(rank, lengths=(_seen_tokens(model),) * 2)
    total = multiply_adds(lambda: model.predict(inputs, layout))
    head = multiply_adds(lambda: model.head(inputs.new_zeros(*layout.target.shape, model.head.embed_dims)))
    if isinstance(model, TwoStreamRandSAC):
        return {'encoder': total - head, 'decoder': 0, 'skip': 0, 'head': head, 'total': total}
    hidden = model.backbone.encode(inputs, layout)
    encoder = multiply_adds(lambda: model.backbone.encode(inputs, layout))
    skip = 0 if model.neck.skip is None else multiply_adds(lambda: model.neck.skip(hidden))
    return {'encoder': encoder, 'decoder': total - encoder - skip - head, 'skip': skip, 'head': head, 'total': total}


class Published(NamedTuple):
    """Sizes and printed figures of one architecture of the paper."""

    dims: int
    tokens: int
    patch: int  # numbers in a patch, P * P * C
    encoder_layers: int
    decoder_layers: int
    decoder_dims: int
    millions: dict[str, int] | None  # parameters (Table 10), if printed; shared: of the two-stream model
    two_stream: float  # multiply-adds (Table 11)
    transformer: float
    with_skip: float


PAPER = {
    'ViT-T': Published(192, 64, 48, 12, 3, 192, dict(encoder=5, decoder=2, shared=7), 499.60e6, 483.82e6, 484.26e6),
    'ViT-S': Published(384, 196, 768, 12, 4, 384, dict(encoder=21, decoder=9, shared=30), 10.94e9, 6.73e9, 6.77e9),
    'ViT-B': Published(768, 144, 768, 12, 6, 768, None, 35.74e9, 21.25e9, 21.49e9),
}
_TWO_STREAM_NOTE = """
encoder: content stream; decoder: query stream, with the same weights
layers that would give the printed figure        ViT-T   ViT-S   ViT-B
two streams, keys and values shared                9.1    15.6    18.4
two streams, keys and values made for each         8.3    14.4    16.9
one stream only                                   16.7    28.8    33.8
as many parameters as encoder and decoder         16.0    17.3    20.0
The paper gives no depth. Ours has as many parameters as encoder and decoder (12 and 16 D^2 a layer), which are the
paper's 7 M and 30 M. The multiply-adds fit two streams of 12 + 4 layers (ViT-S) and 12 + 6 (ViT-B), and none of ViT-T.
Ours shares keys and values, and does not compute the last layer's unused content."""


def find_published(model: RandSAC) -> str | None:
    """Return the name of a model's architecture in :data:`PAPER`, or None; a two-stream model may have any depth."""
    backbone, neck = model.backbone, model.neck
    sizes = (backbone.embed_dims, math.prod(backbone.patch_resolution), model.head.proj.out_features)
    if neck is not None:
        sizes += (backbone.num_layers, neck.num_layers, neck.embed_dims)
    return next((name for name, paper in PAPER.items() if sizes == paper[: len(sizes)]), None)


def compare_with_paper(model: RandSAC) -> dict[str, tuple[float, float]]:
    """Compare a model that :func:`find_published` finds with Tables 10 and 11.

    Returns:
        Our figure and the paper's by row. Parameters are those of the layers, in whole millions, as printed.
    """
    paper, costs = PAPER[find_published(model)], complexity(model)
    two_stream, total, rows = isinstance(model, TwoStreamRandSAC), costs['total'].all_tokens, {}
    modules = {'shared': model.backbone} if two_stream else {'encoder': model.backbone, 'decoder': model.neck}
    for part, module in modules.items() if paper.millions else ():
        millions = round(_parameters(module.layers) / 1e6)
        rows[f'parameters of the {part} layers, millions'] = (millions, paper.millions[part])
    if two_stream:
        return rows | {'multiply-adds, two-stream': (total, paper.two_stream)}
    rows['multiply-adds, transformer'] = (total - costs['skip'].all_tokens, paper.transformer)
    if model.neck.skip is not None:
        rows['multiply-adds, transformer-skip'] = (total, paper.with_skip)
    return rows


def report(model: RandSAC) -> str:
    """Return a table of a model's costs, and of the paper's if it has such a model."""
    (height, width), (rows, columns) = model.backbone.img_size, model.backbone.patch_resolution
    lines = [f'One image of {height} x {width} pixels, {rows} x {columns} = {rows * columns} tokens', '']
    lines.append(f'{"":<30}{"parameters":>14}{"multiply-adds":>18}{"all tokens":>18}')
    lines.append(f'{"":<44}{"as executed":>18}{"as in the paper":>18}')
    for part, cost in complexity(model).items():
        lines.append(f'{part:<30}{cost.parameters:>14,}{cost.executed:>18,}{cost.all_tokens:>18,}')
    if (name := find_published(model)) is None:
        return '\n'.join(lines)
    lines += ['', f'{name} in Tables 10 and 11 (parameters: layers only, rounded as the paper prints them)']
    lines.append(f'{"":<44}{"ours":>18}{"paper":>18}{"difference":>12}')
    for what, (ours, paper) in compare_with_paper(model).items():
        lines.append(f'{what:<44}{ours:>18,.0f}{paper:>18,.0f}{100 * (ours / paper - 1):>+10.2f} %')
    if isinstance(model, TwoStreamRandSAC):
        lines.append(_TWO_STREAM_NOTE)
    return '\n'.join(lines)


@torch.no_grad()
def multiply_adds(run: Callable[[], object]) -> int:
    """Count the multiply-adds of matrix products and convolutions in ``run``, attention included."""
    # MATH: the counter does not know every fused attention kernel.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2  # a multiply-add is two operations


def count_executed(model: nn.Module) -> int:
    """Count the multiply-adds that pre-training executes for one image, also of MAE or a classifier of mmpretrain."""
    if isinstance(model, RandSAC):
        return complexity(model)['total'].executed
    image = next(model.parameters()).new_zeros(1, 3, *model.backbone.img_size)
    label = DataSample().set_gt_label(0).to(image.device)
    return multiply_adds(lambda: model.loss(image, [label]))


def _parameters(module: nn.Module | None) -> int:
    named = [] if module is None else module.named_parameters()
    return sum(parameter.numel() for name, parameter in named if name != 'pos_embed')


def _seen_tokens(model: RandSAC) -> int:
    """Return how many tokens encoder and decoder need, on average of 1,000 images if segments vary in size."""
    generator, device = torch.Generator().manual_seed(0), torch.device('cpu')
    rank = model.data_preprocessor.serialization(1000, model.backbone.patch_resolution, generator, device)
    return round(needed_tokens(rank).double().mean().item())  # first and last segment are equal on average


def _products(model: RandSAC, tokens: int, last_content: bool) -> dict[str, int]:
    """Count multiply-adds; ``last_content``: whether the last two-stream layer computes its unused content."""
    # With a hidden width of 4 D: 12 D^2 N + 2 N^2 D per encoder layer, 16 D^2 N + 4 N^2 D per decoder layer.
    backbone, neck = model.backbone, model.neck
    n, e, layers = tokens, backbone.embed_dims, backbone.num_layers
    patch = backbone.patch_size**2 * backbone.in_channels
    layer = n * (4 * e * e + 2 * e * _hidden_dims(backbone)) + 2 * n * n * e
    products = {'encoder': n * patch * e + layers * layer, 'skip': 0, 'head': n * model.head.embed_dims * patch}
    if isinstance(model, TwoStreamRandSAC):  # keys and values are the content's, in the last layer as well
        content_layers = layers if last_content else layers - 1
        products['encoder'] -= (layers - content_layers) * layer
        return products | {'decoder': layers * layer - content_layers * n * 2 * e * e}
    d = neck.embed_dims
    if neck.skip is not None:
        products['skip'] = n * e * layers * neck.num_layers
    # Self-attention, queries and output of cross-attention, its keys and values, MLP.
    decoder_layer = n * (4 * d * d + 2 * d * d + 2 * d * e + 2 * d * _hidden_dims(neck)) + 4 * n * n * d
    return products | {'decoder': neck.num_layers * decoder_layer}


def _hidden_dims(module: nn.Module) -> int:
    return module.layers[0].ffn.layers[0][0].out_features
