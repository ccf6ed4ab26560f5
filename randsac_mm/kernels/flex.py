"""Attention by PyTorch's FlexAttention: the mask is a function of ranks, compiled into the kernel.

Tiles that nobody may attend to are skipped. Behind a flag: never chosen by itself. Its backward has given NaN for
lengths that are no multiples of a tile (PyTorch issue 153799), so queries and keys are padded to whole tiles of 128
here; at 60 tokens that is four times the work. There is no backward on CPUs.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .masks import NEVER, Mask, open_empty_rows, sees_something
from .sdpa import sdpa_attention

TILE = 128  # tokens, FlexAttention's own default


def missing() -> str | None:
    """Say why FlexAttention cannot be used here; None if it can."""
    try:
        import torch.nn.attention.flex_attention
    except ImportError:
        return f'it needs torch 2.6 or newer, this is {torch.__version__}'
    return None


def _padding(tokens: int) -> int:
    return -tokens % TILE


def _count_tiles(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """Map which tiles of a row count (B, 1, q, k), bool, to their number (B, 1, q) and places, these first."""
    places = tiles.int().argsort(dim=-1, descending=True, stable=True)
    return tiles.sum(dim=-1, dtype=torch.int32), places.int()


def make_blocks(query_rank: Tensor, key_rank: Tensor) -> object:
    """Sort the tiles of a mask into full, partly open and closed ones, without drawing the mask.

    Args:
        query_rank: Ranks of the queries (B or 1, Q), int32.
        key_rank: Ranks of the keys (B or 1, N), int32.

    Returns:
        A ``BlockMask`` for Q and N padded to whole tiles. Queries without any key are opened to all.
    """
    from torch.nn.attention.flex_attention import BlockMask

    q = F.pad(open_empty_rows(query_rank, key_rank), (0, _padding(query_rank.shape[1])), value=NEVER)
    k = F.pad(key_rank, (0, _padding(key_rank.shape[1])), value=NEVER)
    q_tiles, k_tiles = q.unflatten(1, (-1, TILE)), k.unflatten(1, (-1, TILE))
    some = q_tiles.amax(2)[:, None, :, None] >= k_tiles.amin(2)[:, None, None, :]  # (B, 1, q, k)
    full = q_tiles.amin(2)[:, None, :, None] >= k_tiles.amax(2)[:, None, None, :]
    shared_q, shared_k = q.shape[0] == 1, k.shape[0] == 1

    def may_attend(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return q[0 if shared_q else b, i] >= k[0 if shared_k else b, j]

    return BlockMask.from_kv_blocks(
        *_count_tiles(some & ~full), *_count_tiles(full), BLOCK_SIZE=TILE, mask_mod=may_attend
    )


@functools.cache
def _compiled() -> Callable:
    """Compile once: uncompiled, FlexAttention stores the whole matrix of logits."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _uncompiled(*tensors: Tensor, block_mask: object) -> Tensor:
    """Run it as plain maths: compiled for a CPU, PyTorch 2.11's kernel aborts the process if it has two threads."""
    from torch.nn.attention.flex_attention import flex_attention

    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='flex_attention called without torch.compile')
        return flex_attention(*tensors, block_mask=block_mask)


def flex_attention(query: Tensor, key: Tensor, value: Tensor, mask: Mask | None) -> Tensor:
    """Attend with FlexAttention; without a mask there is nothing to skip, and SDPA attends.

    Args:
        query: Queries (B, h, Q, d).
        key: Keys (B, h, N, d).
        value: Values (B, h, N, d).
        mask: Who may attend to whom; None: everybody to everybody.

    Returns:
        Attended values (B, h, Q, d). Queries without any key get exactly 0 and pass no gradient on.

    Raises:
        ValueError: If there is no FlexAttention, or gradients are asked for on a CPU.
    """
    if mask is None:
        return sdpa_attention(query, key, value, None)
    if missing():
        raise ValueError(f"attention back-end 'flex' is not available: {missing()}")
    if query.device.type == 'cpu' and torch.is_grad_enabled():
        if any(tensor.requires_grad for tensor in (query, key, value)):
            raise ValueError(
                "attention back-end 'flex' has no backward on a CPU: choose 'sdpa' or 'plain' to train there"
            )
        query, key, value = query.detach(), key.detach(), value.detach()
    from torch.nn.attention import flex_attention as flex

    tokens = query.shape[2]
    blocks = mask.blocks if mask.blocks is not None else make_blocks(mask.query_rank, mask.key_rank)
    query = F.pad(query, (0, 0, 0, _padding(tokens)))
    key, value = (F.pad(tensor, (0, 0, 0, _padding(tensor.shape[2]))) for tensor in (key, value))
    if torch.compiler.is_compiling():
        run = flex.flex_attention
    else:
        run = _uncompiled if query.device.type == 'cpu' else _compiled()
    attended = run(query, key, value, block_mask=blocks)[:, :, :tokens]
    empty = ~sees_something(mask.query_rank, mask.key_rank)
    return attended.masked_fill(empty[:, None, :, None], 0)
