"""Closed forms behind scaling.py: the sizes of an axis, their operations and traffic, and the rates of both."""

import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from measure import Marks
from rates import linear_shapes
from step_models import build_model
from torch import Tensor

from randsac_mm.complexity import complexity
from randsac_mm.kernels import attention, linear, make_mask
from randsac_mm.models import RandSAC

AXES = ('tokens', 'segments', 'depth', 'batch')


class Point(NamedTuple):
    """Describe one size of the model.

    Attributes:
        value: Its place on the axis.
        side: Tokens in a row and in a column of an image.
        batch: Images in a step.
        squares: Segments of an image.
        encoder: Encoder layers.
        decoder: Decoder layers.
    """

    value: int
    side: int
    batch: int
    squares: int
    encoder: int
    decoder: int


def axis_points(axis: str, scale: int, encoder: int, decoder: int) -> list[Point]:
    """List the points of an axis, from the smallest.

    Args:
        axis: One of ``AXES``.
        scale: How many times the smallest batch; 4 gives 9,216 tokens a step.
        encoder: Encoder layers where depth does not vary.
        decoder: Decoder layers likewise.
    """
    depth = encoder, decoder
    if axis == 'tokens':
        return [Point(n * n, n, 2304 * scale // n**2, 16, *depth) for n in (8, 12, 16, 24, 32)]
    if axis == 'segments':
        return [Point(k, 12, 8 * scale, k, *depth) for k in (4, 9, 16, 36, 144)]
    if axis == 'depth':
        return [Point(layers, 12, 4 * scale, 16, layers, decoder) for layers in (2, 4, 8, 12)]
    return [Point(batch, 12, batch, 16, *depth) for batch in (scale, 2 * scale, 4 * scale, 8 * scale)]


def build_point(point: Point, dims: int, heads: int) -> RandSAC:
    """Build the model of a point, with patches of 4 px."""
    arch = dict(embed_dims=dims, num_layers=point.encoder, num_heads=heads, feedforward_channels=4 * dims)
    layers = dict(encoder_dims=dims, encoder_layers=point.encoder, num_layers=point.decoder)
    partition = dict(type='SquarePartition', hierarchy=point.squares)
    return build_model(
        'tiny',
        backbone=dict(arch=arch, img_size=4 * point.side),
        neck=dict(embed_dims=dims, num_heads=heads, feedforward_channels=4 * dims, **layers),
        head=dict(embed_dims=dims),
        data_preprocessor=dict(serialization=dict(type='RandomSerialization', partition=partition)),
    )


def work(model: RandSAC, batch: int) -> tuple[int, int]:
    """Count the multiply-adds of a step's forward pass: those of linear layers, and those of attention."""
    total = complexity(model)['total'].executed
    dense = sum(m * k * o * number for (m, k, o), number in linear_shapes(model, 1).items())
    skip = complexity(model)['skip'].executed
    return batch * (dense + skip), batch * (total - dense - skip)


def traffic(model: RandSAC, batch: int) -> int:
    """Count the bytes that norms, sums and GELU of a step read and write in float32, and AdamW.

    Of D numbers for each token and forward pass, an encoder layer moves 18: 4 for two norms, 8 for GELU, 6 for two
    sums; a decoder layer 23. The backward pass moves twice as much. AdamW moves 28 bytes a parameter. Operands of
    products are not counted here: the rate of linear layers knows them.
    """
    backbone, neck = model.backbone, model.neck
    tokens = next(iter(linear_shapes(model, batch))).rows
    numbers = 18 * backbone.num_layers * backbone.embed_dims + 23 * neck.num_layers * neck.embed_dims
    return 3 * 4 * tokens * numbers + 28 * complexity(model)['total'].parameters


def traffic_rate(model: RandSAC, batch: int, device: torch.device) -> float:
    """Measure the bytes a second of one norm, one GELU and one sum, forward and backward, in float32."""
    rows, dims = next(iter(linear_shapes(model, batch))).rows, model.backbone.embed_dims
    x = torch.randn(rows, dims, device=device, requires_grad=True)
    wide = torch.randn(rows, 4 * dims, device=device, requires_grad=True)
    ones = torch.ones_like(x), torch.ones_like(wide)

    def run() -> None:
        torch.autograd.backward([F.layer_norm(x, (dims,)) + x, F.gelu(wide)], list(ones))
        x.grad = wide.grad = None

    return 3 * 4 * (2 + 3 + 8) * rows * dims / _seconds(run, device)


def linear_rate(model: RandSAC, batch: int, device: torch.device, dtype: torch.dtype) -> float:
    """Measure the operations a second of a model's linear layers, forward and backward, with biases and all copies."""
    seconds = operations = 0.0
    for (rows, inputs, outputs), number in linear_shapes(model, batch).items():
        sizes = ((rows, inputs), (outputs, inputs), (outputs,))
        operands = [torch.randn(size, device=device).to(dtype).requires_grad_() for size in sizes]
        ones = torch.ones(rows, outputs, device=device, dtype=dtype)

        def run(operands: list[Tensor] = operands, ones: Tensor = ones) -> None:
            linear(*operands).backward(ones)
            for operand in operands:
                operand.grad = None

        seconds += number * _seconds(run, device, repeats=3)
        operations += 6 * number * rows * inputs * outputs
    return operations / seconds


def attention_seconds(model: RandSAC, batch: int, device: torch.device, dtype: torch.dtype) -> float:
    """Measure one attention, forward and backward, of the encoder's shape."""
    grid, heads = model.backbone.patch_resolution, model.backbone.layers[0].attn.num_heads
    left_out = model.data_preprocessor.serialization.tokens_per_segment(grid)
    tokens, dims = grid[0] * grid[1] - left_out, model.backbone.embed_dims
    rank = (torch.arange(tokens, device=device) // left_out)[None]
    # Cut from one projection, as the layers do.
    qkv = torch.randn(batch, tokens, 3, heads, dims // heads, device=device).to(dtype).requires_grad_()
    mask = make_mask(rank, rank, dtype)
    ones = torch.ones(batch, tokens, dims, device=device, dtype=dtype)

    def run() -> None:
        attention(*qkv.permute(2, 0, 3, 1, 4).unbind(0), mask).backward(ones)
        qkv.grad = None

    return _seconds(run, device)


def attention_work(model: RandSAC, batch: int) -> tuple[int, int]:
    """Count what the attentions of a step have to do, backward pass included.

    Returns:
        Numbers that enter, tokens x D of every attention, and operations.
    """
    rows = next(iter(linear_shapes(model, batch))).rows
    backbone, neck = model.backbone, model.neck
    entering = rows * (backbone.num_layers * backbone.embed_dims + 2 * neck.num_layers * neck.embed_dims)
    return entering, 6 * work(model, batch)[1]


def attention_costs(short: tuple[float, int, int], long: tuple[float, int, int]) -> tuple[float, float]:
    """Split the time of attention into what grows with tokens and what grows with their square.

    Args:
        short: Seconds, entering numbers and operations of an attention over few tokens.
        long: The same over many tokens.

    Returns:
        Seconds for each entering number, not below 0, and for each operation.

    Example:
        >>> attention_costs((3.0, 2, 100), (21.0, 2, 1000))
        (0.5, 0.02)
    """
    (t, n, o), (t2, n2, o2) = short, long
    each = (t * o2 - t2 * o) / (n * o2 - n2 * o)
    return (each, (t2 - each * n2) / o2) if each > 0 else (0.0, t2 / o2)


def _seconds(run: Callable[[], None], device: torch.device, repeats: int = 5) -> float:
    run()
    marks = Marks(device)
    marks.set()
    for _ in range(repeats):
        run()
        marks.set()
    return statistics.median(marks.seconds())
