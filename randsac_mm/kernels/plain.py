"""Attention in plain words: matrix product, masked softmax, matrix product.

The reference that every other back-end is compared with, and deterministic on any device. ``torch.compile`` fuses the
mask, the scale and the softmax into one pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .masks import Mask, may_attend, sees_something


def plain_attention(query: Tensor, key: Tensor, value: Tensor, mask: Mask | None) -> Tensor:
    """Attend; the softmax of half-precision inputs is computed in float32.

    Args:
        query: Queries (B, h, Q, d).
        key: Keys (B, h, N, d).
        value: Values (B, h, N, d).
        mask: Who may attend to whom; None: everybody to everybody.

    Returns:
        Attended values (B, h, Q, d). Queries without any key get exactly 0 and pass no gradient on.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    logits = torch.matmul(query, key.transpose(-2, -1)).to(wide) * query.shape[-1] ** -0.5
    if mask is None:
        return torch.matmul(logits.softmax(dim=-1).to(value.dtype), value)
    # The lowest number instead of minus infinity keeps even an empty row finite, in both directions.
    logits = logits.masked_fill(~may_attend(mask.query_rank, mask.key_rank), torch.finfo(wide).min)
    attended = torch.matmul(logits.softmax(dim=-1).to(value.dtype), value)
    empty = ~sees_something(mask.query_rank, mask.key_rank)
    return attended.masked_fill(empty[:, None, :, None], 0)
