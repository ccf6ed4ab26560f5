"""Choose the attention back-end for a model's own shapes on this machine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .attention import ATTENTION_BACKENDS, attention, attention_backends, make_mask, use_attention
from .choice import AUTO, BUDGET, Choice, choose, describe_machine, disagreement
from .masks import sees_something

DEFAULT = 'sdpa'
# Largest error of a back-end that is let through, as part of the largest number. It is there to find back-ends that
# compute something else, not to compare roundings; float32 may be multiplied as TF32.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 5e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
SEGMENTS = 9  # of the masks that are timed
LOGITS = {'cpu': 1 << 21, 'cuda': 1 << 26}  # as many at most, by taking fewer images; more would only take longer


class AttentionShape(NamedTuple):
    """Describe one kind of attention that a model computes.

    Attributes:
        images: Number of images B on one device.
        heads: Number of heads h.
        queries: Number of queries Q.
        keys: Number of keys N.
        dims: Dims d of a head.
        shared: Whether one mask serves all images.
    """

    images: int
    heads: int
    queries: int
    keys: int
    dims: int
    shared: bool = True


def _problem(
    shape: AttentionShape, images: int, device: torch.device, dtype: torch.dtype
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Draw queries, keys, values, ranks for both and the output's gradient, from a random generator of its own."""
    generator = torch.Generator().manual_seed(0)

    def draw(tokens: int) -> Tensor:  # stored as a projection leaves it
        numbers = torch.randn(images, tokens, shape.heads, shape.dims, generator=generator)
        return numbers.to(device, dtype).transpose(1, 2)

    rows = 1 if shape.shared else images

    def ranks(tokens: int) -> Tensor:
        rank = torch.arange(tokens).mul(SEGMENTS).div(tokens, rounding_mode='floor').int().repeat(rows, 1)
        if not shape.shared:
            rank = rank.gather(1, torch.rand(rank.shape, generator=generator).argsort(dim=1))
        return rank.to(device)

    tensors = [draw(tokens).requires_grad_() for tokens in (shape.queries, shape.keys, shape.keys)]
    return tensors, ranks(shape.queries), ranks(shape.keys), draw(shape.queries).transpose(1, 2).flatten(2)


def _run(tensors: Sequence[Tensor], mask: object, grad: Tensor, attend: Callable = attention) -> tuple[Tensor, ...]:
    """Compute attention and its three gradients."""
    out = attend(*tensors, mask)
    return out, *torch.autograd.grad(out, tensors, grad)


def _check(name: str, shapes: Sequence[AttentionShape], device: torch.device, dtype: torch.dtype) -> str | None:
    """Compare a back-end with plain maths in float64, on two images with strict masks, whose first rows are empty."""
    for shape in shapes:
        tensors, query_rank, key_rank, grad = _problem(shape, 2, device, dtype)
        query_rank = query_rank - 1
        rows = sees_something(query_rank, key_rank)[:, :, None]
        results = []
        for backend, kind in (('plain', torch.float64), (name, dtype)):
            inputs = [tensor.detach().to(kind).requires_grad_() for tensor in tensors]
            with use_attention(backend):
                out, *grads = _run(inputs, make_mask(query_rank, key_rank, kind), (grad * rows).to(kind))
            results.append([out * rows, *grads])
        reason = disagreement(results[1], results[0], TOLERANCE[dtype])
        if reason:
            return f'{reason} (heads of {shape.dims} dims, {shape.queries} queries, {shape.keys} keys)'
    return None


def _candidate(
    name: str, shapes: Sequence[AttentionShape], device: torch.device, dtype: torch.dtype, compiled: bool
) -> Callable[[], None]:
    @functools.cache
    def problems() -> list[tuple]:
        made = []
        for shape in shapes:
            each = shape.heads * shape.queries * shape.keys
            images = max(1, min(shape.images, LOGITS.get(device.type, LOGITS['cuda']) // each))
            tensors, query_rank, key_rank, grad = _problem(shape, images, device, dtype)
            made.append((tensors, make_mask(query_rank, key_rank, dtype), grad))
        return made

    attend = torch.compile(attention, dynamic=False, fullgraph=True) if compiled else attention

    def run() -> None:
        with use_attention(name):
            for tensors, mask, grad in problems():
                _run(tensors, mask, grad, attend)

    return run


def choose_attention(
    shapes: Sequence[AttentionShape],
    device: torch.device | str,
    dtype: torch.dtype,
    requested: str = AUTO,
    compiled: bool = False,
    cache: bool = True,
    budget: float = BUDGET,
) -> Choice:
    """Choose the attention back-end: the one asked for, the one remembered, or the fastest on these shapes.

    ``'flex'`` must be asked for. The environment variable ``RANDSAC_MM_ATTENTION`` overrides everything. The random
    state is left as it is. Nothing is set: pass the choice's name to :func:`use_attention`.

    Args:
        shapes: What the model computes; with one of each kind.
        device: Where.
        dtype: Type of queries, keys and values.
        requested: A back-end, or ``'auto'``.
        compiled: Whether the model is compiled, so that back-ends are to be measured like that.
        cache: Whether to use what is remembered on disk.
        budget: Time of the measurement in seconds, apart from warm-up and compilation.

    Returns:
        The choice; print its report.

    Raises:
        ValueError: If the back-end asked for does not exist.
        RuntimeError: If none works.
    """
    device, shapes = torch.device(device), list(dict.fromkeys(shapes))
    missing = attention_backends(device)
    names = [name for name in ATTENTION_BACKENDS if name != 'flex' and missing[name] is None]
    if device.type == 'cpu':
        names = ['sdpa', 'plain']  # Triton's interpreter is for tests
    key = describe_machine(device) | {'dtype': str(dtype), 'shapes': shapes, 'compiled': compiled}
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        return choose(
            'attention',
            {name: _candidate(name, shapes, device, dtype, compiled) for name in names},
            key,
            default=DEFAULT,
            requested=requested,
            on_request=[name for name in ATTENTION_BACKENDS if name not in names],
            check=lambda name: _check(name, shapes, device, dtype),
            wait=(lambda: torch.cuda.synchronize(device)) if device.type == 'cuda' else (lambda: None),
            budget=budget,
            cache=cache,
        )
