"""Attention by our Triton kernels, as PyTorch operators with gradients that ``torch.compile`` can trace.

They read ranks, two rows of integers, instead of a mask of Q x N, and keep only the output and one number a row for the
backward pass, which computes the weights again.
"""

from __future__ import annotations

import importlib.util
import math
import os
from typing import Any

import torch
from torch import Tensor

from randsac_mm.segments import Mask

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_DIMS = 128  # of a head; wider ones do not fit a program's registers
# Known without importing Triton, which takes a while.
INSTALLED = importlib.util.find_spec('triton') is not None
INTERPRETED = os.environ.get('TRITON_INTERPRET', '').lower() in ('1', 'true', 'on', 'yes', 'y')
# How float32 is multiplied: on NVIDIA's chips by three products on tensor cores, nearly as exact as float32 itself.
PRECISION = 'interpreted' if INTERPRETED else 'ieee' if torch.version.hip else 'tf32x3'


def missing(device: torch.device | None = None) -> str | None:
    """Return why these kernels cannot be used on a device, or on this machine; None if they can."""
    if not hasattr(torch.library, 'custom_op'):
        return f'it needs torch 2.4 or newer, this is {torch.__version__}'
    if not INSTALLED:
        return 'Triton is not installed; it comes with the CUDA builds of torch'
    if INTERPRETED or (device.type == 'cuda' if device is not None else torch.cuda.is_available()):
        return None
    return f'Triton compiles for GPUs, not for {device or "a CPU"} (slowly, for tests: TRITON_INTERPRET=1)'


def _tiles(queries: int, keys: int, dims: int, bytes_each: int) -> tuple[dict, dict]:
    """Return tiles and warps of the kernels that loop over keys, and of the one that loops over queries.

    With them NVIDIA's assembler for sm_80 and sm_90 keeps tiles in registers and within 99 KB of shared memory.
    """

    def cover(tokens: int) -> int:
        return max(16, 1 << (tokens - 1).bit_length())

    width = cover(dims)
    # Of 64 dims 128 keys in half precision, 32 in float32, whose products need more of everything.
    limit = min(128, 128 * 64 * 4 // (width * bytes_each**2))
    one_tile = keys <= limit
    common: dict[str, Any] = dict(
        QUERIES=queries,
        KEYS=keys,
        DIMS=dims,
        BLOCK_K=cover(keys) if one_tile else min(64, limit),
        BLOCK_D=width,
        PRECISION=PRECISION,
        num_stages=1 if one_tile else 2,
    )
    over_keys = dict(common, BLOCK_Q=min(64, limit, cover(queries)), num_warps=4)
    large = common['BLOCK_K'] * width > 64 * 64
    over_queries = dict(common, BLOCK_Q=min(32 if large else 64, limit, cover(queries)), num_warps=8 if large else 4)
    return over_keys, over_queries


def _strides(*tensors: Tensor) -> tuple[int, ...]:
    """List strides of images, heads and rows of tensors (B, h, ., d)."""
    return tuple(stride for tensor in tensors for stride in tensor.stride()[:3])


def _rows(tensor: Tensor) -> Tensor:
    """Return a tensor whose last axis is contiguous, as kernels expect; after any usual projection it is."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _rank_step(rank: Tensor) -> int:
    return 0 if rank.shape[0] == 1 else rank.stride(0)


def _empty(like: Tensor) -> Tensor:
    """Return an empty (B, h, N, d), stored as (B, N, h, d), the layout of a projection's gradient."""
    images, heads, tokens, dims = like.shape
    return like.new_empty(images, tokens, heads, dims).transpose(1, 2)


def _new_outputs(query: Tensor) -> tuple[Tensor, Tensor]:
    return _empty(query), query.new_empty(query.shape[:3], dtype=torch.float32)


def _forward(query: Tensor, key: Tensor, value: Tensor, query_rank: Tensor, key_rank: Tensor) -> tuple[Tensor, Tensor]:
    from .triton_kernels import make_out

    query, key, value = _rows(query), _rows(key), _rows(value)
    (images, heads, queries, dims), keys = query.shape, key.shape[2]
    out, lse = _new_outputs(query)
    tiles, _ = _tiles(queries, keys, dims, query.element_size())
    programs = images * heads * -(-queries // tiles['BLOCK_Q'])
    with torch.cuda.device_of(query):  # Triton launches on the current device
        make_out[(programs,)](
            *(query, key, value, query_rank, key_rank, out, lse),
            *_strides(query, key, value, out),
            *(_rank_step(query_rank), _rank_step(key_rank), heads, math.log2(math.e) * dims**-0.5),
            **tiles,
        )
    return out, lse


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_rank: Tensor,
    key_rank: Tensor,
    out: Tensor,
    lse: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    from .triton_kernels import make_grad_k_v, make_grad_q

    grad, query, key, value = _rows(grad), _rows(query), _rows(key), _rows(value)
    (images, heads, queries, dims), keys = query.shape, key.shape[2]
    grad_q, grad_k, grad_v = _empty(query), _empty(key), _empty(value)
    over_keys, over_queries = _tiles(queries, keys, dims, query.element_size())
    one_tile = keys <= over_queries['BLOCK_K']
    inputs = (query, key, value, query_rank, key_rank, out, lse, grad, grad_q)
    strides = _strides(query, key, value, out, grad, grad_q)
    steps = (_rank_step(query_rank), _rank_step(key_rank), heads)
    scales = (math.log2(math.e) * dims**-0.5, dims**-0.5)
    with torch.cuda.device_of(query):
        programs = images * heads * -(-keys // over_queries['BLOCK_K'])
        make_grad_k_v[(programs,)](
            *(*inputs, grad_k, grad_v),
            *(*strides, *_strides(grad_k, grad_v), *steps, *scales),
            **over_queries,
            ALL_KEYS=one_tile,
        )
        if not one_tile:
            programs = images * heads * -(-queries // over_keys['BLOCK_Q'])
            make_grad_q[(programs,)](*inputs, *strides, *steps, *scales, **over_keys)
    return grad_q, grad_k, grad_v


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor | None, ...]:
    return *_rank_attention_backward(grad, *ctx.saved_tensors), None, None


if hasattr(torch.library, 'custom_op'):
    _INPUTS = 'Tensor query, Tensor key, Tensor value, Tensor query_rank, Tensor key_rank'
    _rank_attention = torch.library.custom_op(
        'randsac_mm::rank_attention', _forward, mutates_args=(), schema=f'({_INPUTS}) -> (Tensor, Tensor)'
    )
    _rank_attention_backward = torch.library.custom_op(
        'randsac_mm::rank_attention_backward',
        _backward,
        mutates_args=(),
        schema=f'(Tensor grad, {_INPUTS}, Tensor out, Tensor lse) -> (Tensor, Tensor, Tensor)',
    )
    _rank_attention.register_fake(lambda query, *_: _new_outputs(query))
    _rank_attention_backward.register_fake(lambda _, q, k, v, *__: (_empty(q), _empty(k), _empty(v)))
    _rank_attention.register_autograd(_differentiate, setup_context=_save)


def triton_attention(query: Tensor, key: Tensor, value: Tensor, mask: Mask) -> Tensor:
    """Compute attention by kernels that read ranks.

    Args:
        query: Queries (B, h, Q, d), float32, bfloat16 or float16.
        key: Keys (B, h, N, d).
        value: Values (B, h, N, d).
        mask: The mask; only its ranks are read.

    Returns:
        Attended values (B, h, Q, d). Queries without any key get exactly 0 and pass no gradient on.

    Raises:
        ValueError: If Triton or a GPU is missing, types differ or are others, or heads are wider than 128.
    """
    reason = missing(query.device)
    if reason:
        raise ValueError(f"attention='triton' is not available: {reason}. Use 'auto'")
    if query.dtype not in DTYPES or not query.dtype == key.dtype == value.dtype:
        raise ValueError(
            f"attention='triton' got {query.dtype}, {key.dtype} and {value.dtype}: all must be one of "
            f"{', '.join(map(str, DTYPES))}. Use attention='sdpa' for others"
        )
    if query.shape[3] > MAX_DIMS:
        raise ValueError(f"attention='triton' got heads of {query.shape[3]} dims, at most {MAX_DIMS} fit. Use 'sdpa'")
    return _rank_attention(query, key, value, mask.query_rank.contiguous(), mask.key_rank.contiguous())[0]
