"""Parameters and multiply-adds of a RandSAC model for one image (paper appendix A.3, Tables 10 and 11).

A multiply-add is one product that is added up: matrix products of linear layers and of attention. Norms, GELU, softmax
and sums are left out, as is usual. N: tokens; S, T: tokens that the encoder and the decoder really see; D: dims.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from randsac_mm.models import RandSAC, TwoStreamRandSAC
from randsac_mm.segments import Layout, sorted_layout


class Cost(NamedTuple):
    """Hold what one part of a model costs.

    Attributes:
        parameters: Learned numbers; fixed positions do not count.
        executed: Multiply-adds for one image in pre-training as it is done: the last segment does not enter the
            encoder, the first is not decoded (of segments that vary in size one token each, see
            :func:`randsac_mm.segments.sorted_layout`).
        all_tokens: Multiply-adds for one image if every token goes through everything, as Table 11 counts.
    """

    parameters: int
    executed: int
    all_tokens: int


def complexity(model: RandSAC) -> dict[str, Cost]:
    """Compute the cost of every part of a model, by formula.

    Args:
        model: The model; the size of its images is the backbone's ``img_size``.

    Returns:
        Costs of ``encoder`` (with patch embedding), ``decoder`` (without skip connections), ``skip``, ``head`` and
        ``total``. In the two-stream baseline the query stream takes the decoder's place; its parameters are the
        encoder's.
    """
    grid = model.backbone.patch_resolution
    tokens = math.prod(grid)
    seen = tokens - (model.data_preprocessor.serialization.tokens_per_segment(grid) or 1)
    if isinstance(model, TwoStreamRandSAC):
        layers = model.backbone.num_layers
        executed = _two_stream_products(model, seen, content_layers=layers - 1)  # nobody reads the last layer's content
        all_tokens = _two_stream_products(model, tokens, content_layers=layers)
    else:
        executed, all_tokens = _products(model, seen), _products(model, tokens)
    parameters = _parameters(model)
    costs = {part: Cost(parameters[part], executed[part], all_tokens[part]) for part in parameters}
    return {**costs, 'total': Cost(*(sum(column) for column in zip(*costs.values(), strict=True)))}


def measure(model: RandSAC) -> dict[str, int]:
    """Count the multiply-adds for one image by running it: the check of :func:`complexity`, column ``executed``.

    Args:
        model: The model.

    Returns:
        Multiply-adds of each part and in ``total``. The two-stream baseline counts as one part, ``encoder``.
    """
    parameter = next(model.parameters())
    inputs = torch.zeros(1, model.backbone.in_channels, *model.backbone.img_size, device=parameter.device)
    batch = model.data_preprocessor.draw(inputs)
    layout = sorted_layout(batch['rank'], batch['tokens_per_segment'])
    counts = dict.fromkeys(('encoder', 'decoder', 'skip', 'head'), 0)
    counts['total'] = _count(lambda: model.predict(inputs, layout))
    decoded = torch.zeros(*layout.target.shape, model.head.embed_dims, device=parameter.device)
    counts['head'] = _count(lambda: model.head(decoded))
    if isinstance(model, TwoStreamRandSAC):
        counts['encoder'] = counts['total'] - counts['head']
    else:
        counts.update(_count_parts(model, inputs, layout))
    return counts


def _count_parts(model: RandSAC, inputs: torch.Tensor, layout: Layout) -> dict[str, int]:
    hidden: list[torch.Tensor] = []
    encoder = _count(lambda: hidden.extend(model.backbone.encode(inputs, layout)))
    skip = _count(lambda: model.neck.skip(hidden)) if model.neck.skip is not None else 0
    whole = _count(lambda: model.neck(hidden, layout, model.backbone.patch_resolution))
    return {'encoder': encoder, 'decoder': whole - skip, 'skip': skip}


@torch.no_grad()
def _count(run: Callable[[], object]) -> int:
    # The counter does not know the fused attention kernels of a CPU; the plain backend is made of matrix products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2  # a multiply-add is two operations


def _parameters(model: RandSAC) -> dict[str, int]:
    def size(module: nn.Module | None, without: str = '') -> int:
        if module is None:
            return 0
        return sum(p.numel() for name, p in module.named_parameters() if not without or not name.startswith(without))

    skip = size(getattr(model.neck, 'skip', None)) if model.neck is not None else 0
    return {
        'encoder': size(model.backbone, without='pos_embed'),
        'decoder': size(model.neck) - skip if model.neck is not None else 0,
        'skip': skip,
        'head': size(model.head),
    }


def _hidden_dims(layer: nn.Module) -> int:
    return layer.ffn.layers[0][0].out_features


def _products(model: RandSAC, tokens: int) -> dict[str, int]:
    """Count the multiply-adds of encoder and decoder if each sees ``tokens`` tokens.

    With a hidden width of 4 D these are the formulas 12 D^2 N + 2 N^2 D per encoder layer and 16 D^2 N + 4 N^2 D per
    decoder layer.
    """
    backbone, neck, head = model.backbone, model.neck, model.head
    n, d, e = tokens, neck.embed_dims, backbone.embed_dims
    patch = backbone.patch_size**2 * backbone.in_channels
    encoder_layer = n * (4 * e * e + 2 * e * _hidden_dims(backbone.layers[0])) + 2 * n * n * e
    # Self-attention 4 D^2; cross-attention: queries and output D^2 each, keys and values of the encoder's width.
    decoder_layer = n * (4 * d * d + 2 * d * d + 2 * d * e + 2 * d * _hidden_dims(neck.layers[0])) + 4 * n * n * d
    return {
        'encoder': n * patch * e + backbone.num_layers * encoder_layer,
        'decoder': neck.num_layers * decoder_layer,
        'skip': n * e * backbone.num_layers * neck.num_layers if neck.skip is not None else 0,
        'head': n * head.embed_dims * patch,
    }


def _two_stream_products(model: TwoStreamRandSAC, tokens: int, content_layers: int) -> dict[str, int]:
    """Count the multiply-adds of two streams of ``tokens`` tokens; only ``content_layers`` layers make content."""
    backbone = model.backbone
    n, e = tokens, backbone.embed_dims
    patch = backbone.patch_size**2 * backbone.in_channels
    stream = n * (4 * e * e + 2 * e * _hidden_dims(backbone.layers[0])) + 2 * n * n * e
    return {
        'encoder': n * patch * e + content_layers * stream,
        # Like the other stream, but keys and values are the content's; they are made here where content makes no more.
        'decoder': backbone.num_layers * stream - content_layers * n * 2 * e * e,
        'skip': 0,
        'head': n * e * patch,
    }
