"""What the paper prints about parameters and multiply-adds (appendix A.3, Tables 10 and 11), beside our figures."""

import math
from typing import NamedTuple

from torch import nn

from randsac_mm.models import RandSAC, TwoStreamRandSAC

from .count import complexity


class Published(NamedTuple):
    """Hold what the paper prints of one architecture, and the sizes that the figures fit.

    Attributes:
        dims: Width of encoder and decoder.
        tokens: Number of tokens N.
        patch: Numbers in a patch, P * P * C.
        encoder_layers: Depth of the encoder.
        decoder_layers: Depth of the decoder.
        millions: Parameters of encoder, decoder and two-stream model, in whole millions (Table 10), if printed.
        two_stream: Multiply-adds of the two-stream model (Table 11).
        transformer: Multiply-adds of the masked transformer.
        with_skip: Multiply-adds of the masked transformer with skip connections.
    """

    dims: int
    tokens: int
    patch: int
    encoder_layers: int
    decoder_layers: int
    millions: tuple[int, int, int] | None
    two_stream: float
    transformer: float
    with_skip: float


PAPER = {
    'ViT-T': Published(192, 64, 48, 12, 3, (5, 2, 7), 499.60e6, 483.82e6, 484.26e6),
    'ViT-S': Published(384, 196, 768, 12, 4, (21, 9, 30), 10.94e9, 6.73e9, 6.77e9),
    'ViT-B': Published(768, 144, 768, 12, 6, None, 35.74e9, 21.25e9, 21.49e9),
}


def find_published(model: RandSAC) -> str | None:
    """Tell which architecture of :data:`PAPER` a model is, or None. A two-stream model may have any depth."""
    backbone = model.backbone
    for name, paper in PAPER.items():
        tokens = math.prod(backbone.patch_resolution)
        same = (backbone.embed_dims, tokens, model.head.proj.out_features) == (paper.dims, paper.tokens, paper.patch)
        two_stream = isinstance(model, TwoStreamRandSAC)
        depths = None if two_stream else (backbone.num_layers, model.neck.num_layers, model.neck.embed_dims)
        if same and (two_stream or depths == (paper.encoder_layers, paper.decoder_layers, paper.dims)):
            return name
    return None


def compare_with_paper(model: RandSAC) -> dict[str, tuple[float, float]]:
    """Put a model's figures beside those of Tables 10 and 11.

    Parameters are those of the layers, without patch embedding and head: only so do all four printed numbers agree.

    Args:
        model: A model that :func:`find_published` knows.

    Returns:
        Our figure and the paper's for every row of the comparison. Parameters are in whole millions, as printed.

    Raises:
        ValueError: If the paper has no such model.
    """
    name = find_published(model)
    if name is None:
        raise ValueError(f'Tables 10 and 11 hold no such model; they have {sorted(PAPER)}')
    paper, costs = PAPER[name], complexity(model)
    rows: dict[str, tuple[float, float]] = {}

    def add_parameters(what: str, module: nn.Module, printed: int) -> None:
        rows[f'parameters of the {what} layers, millions'] = (
            round(sum(p.numel() for p in module.layers.parameters()) / 1e6),
            printed,
        )

    if isinstance(model, TwoStreamRandSAC):
        if paper.millions:
            add_parameters('shared', model.backbone, paper.millions[2])
        rows['multiply-adds, two-stream'] = (costs['total'].all_tokens, paper.two_stream)
        return rows
    if paper.millions:
        add_parameters('encoder', model.backbone, paper.millions[0])
        add_parameters('decoder', model.neck, paper.millions[1])
    rows['multiply-adds, transformer'] = (costs['total'].all_tokens - costs['skip'].all_tokens, paper.transformer)
    if model.neck.skip is not None:
        rows['multiply-adds, transformer-skip'] = (costs['total'].all_tokens, paper.with_skip)
    return rows


def two_stream_depths() -> dict[str, dict[str, float]]:
    """Ask which depth of a two-stream model would give the multiply-adds that Table 11 prints, by ways of counting.

    Returns:
        For ``'two streams, keys and values shared'`` (22 D^2 N + 4 N^2 D per layer: keys and values of the content
        serve both, as in our baseline), ``'... made for each'`` (24 D^2 N + 4 N^2 D) and ``'one stream only'``
        (12 D^2 N + 2 N^2 D): the depth for each architecture, with a fraction, after input and output projections.
    """
    ways = {
        'two streams, keys and values shared': (22, 4),
        'two streams, keys and values made for each': (24, 4),
        'one stream only': (12, 2),
    }
    return {
        way: {
            name: (paper.two_stream - 2 * paper.patch * d * n) / (a * d * d * n + b * n * n * d)
            for name, paper in PAPER.items()
            for d, n in [(paper.dims, paper.tokens)]
        }
        for way, (a, b) in ways.items()
    }


TWO_STREAM_NOTE = """\
The paper gives no depth for its two-stream model. Two streams of all tokens through shared layers would need the depths
above. For ViT-S and ViT-B these are close to encoder and decoder of the other rows together, 12 + 4 and 12 + 6: with
shared keys and values such models cost 2.7 % more and 2.2 % less than printed. So both streams are counted there,
although the 30 M parameters of ViT-S (Table 10) mean 17 layers. ViT-T does not fit: its 7 M parameters are 15 or 16
layers, and two streams through 15 cost 65 % more than printed. The figure is near one stream through 16 or 17 layers
(4 % and 2 % away), as if the second stream had not been counted. Our baseline leaves out the last layer's content,
which nobody reads; keys and values of the content serve both streams."""
