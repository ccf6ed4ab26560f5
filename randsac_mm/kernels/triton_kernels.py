"""Triton kernels of attention that reads ranks: a query sees a key where ``query_rank >= key_rank``. No mask is stored.

Each program handles one tile of tokens of one head of one image and loops over the tiles of the other side. If one tile
holds all keys, its program makes all three gradients at once. Logits are scaled to powers of two, because the hardware
has exp2; everything is accumulated in float32. They are launched by :mod:`.triton_ranks`.

Shapes: B images, h heads, Q queries, N keys, d head dims. ``q``, ``out``, ``grad``, ``grad_q`` (B, h, Q, d) and ``k``,
``v``, ``grad_k``, ``grad_v`` (B, h, N, d) come with their strides of images, heads and rows; dims are contiguous.
``lse`` (B, h, Q), contiguous: logarithm to base 2 of a row's sum, plus infinity for a query without any key.
"""

from __future__ import annotations

from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:  # optional; `triton_ranks.missing` is checked before a launch
    triton = tl = None


def _jit(function: Any) -> Any:
    return function if triton is None else triton.jit(function)


@_jit
def _place(COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """Return the image-and-head and the tile of this program; tiles of one head run next to each other."""
    tiles: tl.constexpr = (COUNT + BLOCK - 1) // BLOCK
    return tl.program_id(0) // tiles, tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)


@_jit
def _load(start, rows, row_step, COUNT: tl.constexpr, DIMS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load rows of a matrix; what lies outside is 0."""
    d = tl.arange(0, BLOCK_D)
    inside = (rows < COUNT)[:, None] & (d < DIMS)[None, :]
    return tl.load(start + rows[:, None] * row_step + d[None, :], mask=inside, other=0.0)


@_jit
def _store(start, tile, rows, row_step, COUNT: tl.constexpr, DIMS: tl.constexpr, BLOCK_D: tl.constexpr):
    d = tl.arange(0, BLOCK_D)
    inside = (rows < COUNT)[:, None] & (d < DIMS)[None, :]
    tl.store(start + rows[:, None] * row_step + d[None, :], tile.to(start.dtype.element_ty), mask=inside)


@_jit
def _dot(a, b, PRECISION: tl.constexpr):
    """Multiply matrices and sum up in float32."""
    if PRECISION == 'interpreted':  # there, a product of bfloat16 is one of the integers that store it
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision='ieee')
    return tl.dot(a, b, input_precision=PRECISION)


@_jit
def make_out(
    q, k, v, query_rank, key_rank, out, lse,
    q_image, q_head, q_row, k_image, k_head, k_row, v_image, v_head, v_row, out_image, out_head, out_row,
    query_rank_image, key_rank_image, heads, scale,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, DIMS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Compute the output of a tile of queries, with a running maximum and sum over keys; store ``out`` and ``lse``."""
    place, rows = _place(QUERIES, BLOCK_Q)
    image, head = (place // heads).to(tl.int64), place % heads
    k += image * k_image + head * k_head
    v += image * v_image + head * v_head
    q_tile = _load(q + image * q_image + head * q_head, rows, q_row, QUERIES, DIMS, BLOCK_D)
    rank_q = tl.load(query_rank + image * query_rank_image + rows, mask=rows < QUERIES, other=0)
    top = tl.full([BLOCK_Q], float('-inf'), tl.float32)
    total = tl.full([BLOCK_Q], 0.0, tl.float32)
    mixed = tl.full([BLOCK_Q, BLOCK_D], 0.0, tl.float32)
    for first in range(0, KEYS, BLOCK_K):
        columns = first + tl.arange(0, BLOCK_K)
        k_tile = _load(k, columns, k_row, KEYS, DIMS, BLOCK_D)
        v_tile = _load(v, columns, v_row, KEYS, DIMS, BLOCK_D)
        visible = (columns < KEYS)[None, :]
        rank_k = tl.load(key_rank + image * key_rank_image + columns, mask=columns < KEYS, other=0)
        visible = visible & (rank_q[:, None] >= rank_k[None, :])
        logits = _dot(q_tile, tl.trans(k_tile), PRECISION) * scale
        logits = tl.where(visible, logits, float('-inf'))
        new_top = tl.maximum(top, tl.max(logits, 1))
        level = tl.where(new_top == float('-inf'), 0.0, new_top)  # no key so far: not a number, if it were subtracted
        weights = tl.exp2(logits - level[:, None])
        shrink = tl.exp2(top - level)
        total = total * shrink + tl.sum(weights, 1)
        mixed = mixed * shrink[:, None] + _dot(weights.to(v_tile.dtype), v_tile, PRECISION)
        top = new_top
    seen = total > 0.0
    divisor = tl.where(seen, total, 1.0)
    _store(out + image * out_image + head * out_head, mixed / divisor[:, None], rows, out_row, QUERIES, DIMS, BLOCK_D)
    tl.store(lse + place * QUERIES + rows, tl.where(seen, top + tl.log2(divisor), float('inf')), mask=rows < QUERIES)


@_jit
def make_grad_k_v(
    q, k, v, query_rank, key_rank, out, lse, grad, grad_q, grad_k, grad_v,
    q_image, q_head, q_row, k_image, k_head, k_row, v_image, v_head, v_row, out_image, out_head, out_row,
    grad_image, grad_head, grad_row, grad_q_image, grad_q_head, grad_q_row,
    grad_k_image, grad_k_head, grad_k_row, grad_v_image, grad_v_head, grad_v_row,
    query_rank_image, key_rank_image, heads, scale, natural_scale,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, DIMS: tl.constexpr, PRECISION: tl.constexpr,
    ALL_KEYS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of a tile of keys and values; with ``ALL_KEYS`` those of the queries too."""
    place, columns = _place(KEYS, BLOCK_K)
    image, head = (place // heads).to(tl.int64), place % heads
    q += image * q_image + head * q_head
    out += image * out_image + head * out_head
    grad += image * grad_image + head * grad_head
    grad_q += image * grad_q_image + head * grad_q_head
    k_tile = _load(k + image * k_image + head * k_head, columns, k_row, KEYS, DIMS, BLOCK_D)
    v_tile = _load(v + image * v_image + head * v_head, columns, v_row, KEYS, DIMS, BLOCK_D)
    rank_k = tl.load(key_rank + image * key_rank_image + columns, mask=columns < KEYS, other=0)
    sum_k = tl.full([BLOCK_K, BLOCK_D], 0.0, tl.float32)
    sum_v = tl.full([BLOCK_K, BLOCK_D], 0.0, tl.float32)
    for first in range(0, QUERIES, BLOCK_Q):
        rows = first + tl.arange(0, BLOCK_Q)
        q_tile = _load(q, rows, q_row, QUERIES, DIMS, BLOCK_D)
        grad_tile = _load(grad, rows, grad_row, QUERIES, DIMS, BLOCK_D)
        out_tile = _load(out, rows, out_row, QUERIES, DIMS, BLOCK_D)
        mean = tl.sum(out_tile.to(tl.float32) * grad_tile.to(tl.float32), 1)
        row_lse = tl.load(lse + place * QUERIES + rows, mask=rows < QUERIES, other=float('inf'))
        visible = (columns < KEYS)[:, None] & (rows < QUERIES)[None, :]  # everything is transposed: keys by queries
        rank_q = tl.load(query_rank + image * query_rank_image + rows, mask=rows < QUERIES, other=0)
        visible = visible & (rank_q[None, :] >= rank_k[:, None])
        logits = _dot(k_tile, tl.trans(q_tile), PRECISION) * scale
        weights = tl.exp2(tl.where(visible, logits - row_lse[None, :], float('-inf')))
        sum_v += _dot(weights.to(grad_tile.dtype), grad_tile, PRECISION)
        slope = _dot(v_tile, tl.trans(grad_tile), PRECISION)
        slope = (weights * (slope - mean[None, :])).to(q_tile.dtype)
        sum_k += _dot(slope, q_tile, PRECISION)
        if ALL_KEYS:
            tile = _dot(tl.trans(slope), k_tile, PRECISION) * natural_scale
            _store(grad_q, tile, rows, grad_q_row, QUERIES, DIMS, BLOCK_D)
    grad_k += image * grad_k_image + head * grad_k_head
    grad_v += image * grad_v_image + head * grad_v_head
    _store(grad_k, sum_k * natural_scale, columns, grad_k_row, KEYS, DIMS, BLOCK_D)
    _store(grad_v, sum_v, columns, grad_v_row, KEYS, DIMS, BLOCK_D)


@_jit
def make_grad_q(
    q, k, v, query_rank, key_rank, out, lse, grad, grad_q,
    q_image, q_head, q_row, k_image, k_head, k_row, v_image, v_head, v_row, out_image, out_head, out_row,
    grad_image, grad_head, grad_row, grad_q_image, grad_q_head, grad_q_row,
    query_rank_image, key_rank_image, heads, scale, natural_scale,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, DIMS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of a tile of queries."""
    place, rows = _place(QUERIES, BLOCK_Q)
    image, head = (place // heads).to(tl.int64), place % heads
    k += image * k_image + head * k_head
    v += image * v_image + head * v_head
    q_tile = _load(q + image * q_image + head * q_head, rows, q_row, QUERIES, DIMS, BLOCK_D)
    grad_tile = _load(grad + image * grad_image + head * grad_head, rows, grad_row, QUERIES, DIMS, BLOCK_D)
    out_tile = _load(out + image * out_image + head * out_head, rows, out_row, QUERIES, DIMS, BLOCK_D)
    mean = tl.sum(out_tile.to(tl.float32) * grad_tile.to(tl.float32), 1)
    row_lse = tl.load(lse + place * QUERIES + rows, mask=rows < QUERIES, other=float('inf'))
    rank_q = tl.load(query_rank + image * query_rank_image + rows, mask=rows < QUERIES, other=0)
    sum_q = tl.full([BLOCK_Q, BLOCK_D], 0.0, tl.float32)
    for first in range(0, KEYS, BLOCK_K):
        columns = first + tl.arange(0, BLOCK_K)
        k_tile = _load(k, columns, k_row, KEYS, DIMS, BLOCK_D)
        v_tile = _load(v, columns, v_row, KEYS, DIMS, BLOCK_D)
        visible = (rows < QUERIES)[:, None] & (columns < KEYS)[None, :]
        rank_k = tl.load(key_rank + image * key_rank_image + columns, mask=columns < KEYS, other=0)
        visible = visible & (rank_q[:, None] >= rank_k[None, :])
        logits = _dot(q_tile, tl.trans(k_tile), PRECISION) * scale
        weights = tl.exp2(tl.where(visible, logits - row_lse[:, None], float('-inf')))
        slope = _dot(grad_tile, tl.trans(v_tile), PRECISION)
        slope = (weights * (slope - mean[:, None])).to(k_tile.dtype)
        sum_q += _dot(slope, k_tile, PRECISION)
    grad_q += image * grad_q_image + head * grad_q_head
    _store(grad_q, sum_q * natural_scale, rows, grad_q_row, QUERIES, DIMS, BLOCK_D)
