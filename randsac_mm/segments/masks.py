"""Attention masks of the block-causal model (paper section 4.1, Figure 4). True = may attend.

One relation covers all masks: query i may attend to key j where ``query_rank[i] >= key_rank[j]``. Source mask: both are
the tokens' ranks. Target mask: keys of the first segment get the rank :data:`NEVER`. Memory mask (strictly earlier
segments): queries get their rank minus one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NEVER = torch.iinfo(torch.int32).max  # rank of a key that no query may attend to
ALIGNMENT = 16  # elements; memory-efficient attention copies a bias whose rows start elsewhere, at every call


class Mask(NamedTuple):
    """Attention mask of Q queries and N keys, of B images or 1 for all.

    Attributes:
        query_rank: Ranks of the queries (B or 1, Q), int32.
        key_rank: Ranks of the keys (B or 1, N), int32.
        backend: Name of the attention back-end that reads the mask, see :func:`randsac_mm.kernels.attention`.
        bias: Additive form (B or 1, 1, Q, N) that back-end ``'sdpa'`` reads: 0 = may attend, minus infinity = may not.
            Rows of queries without any key are 0, because a softmax over nothing is undefined.
    """

    query_rank: Tensor
    key_rank: Tensor
    backend: str = 'plain'
    bias: Tensor | None = None

    def dense(self) -> Tensor:
        """Return the mask as a matrix (B or 1, Q, N), bool, True = may attend."""
        return self.query_rank[:, :, None] >= self.key_rank[:, None, :]

    def has_key(self) -> Tensor:
        """Return which queries may attend to at least one key (B or 1, Q), bool."""
        return self.query_rank >= self.key_rank.amin(dim=1, keepdim=True)

    def prepare(self, backend: str, dtype: torch.dtype) -> Mask:
        """Return the mask as a back-end reads it, for queries of a type; once a step, for all layers that share it."""
        if backend != 'sdpa':
            return self._replace(backend=backend, bias=None)
        hidden = ~(self.dense() | ~self.has_key()[:, :, None])[:, None]  # (B or 1, 1, Q, N)
        row = -(-hidden.shape[3] // ALIGNMENT) * ALIGNMENT
        bias = torch.zeros(*hidden.shape[:3], row, dtype=dtype, device=hidden.device)[..., : hidden.shape[3]]
        return self._replace(backend=backend, bias=bias.masked_fill_(hidden, float('-inf')))


def source_mask(query_rank: Tensor, key_rank: Tensor) -> Mask:
    """Return the mask of self-attention in the encoder: a token attends to its own segment and to earlier ones.

    Drawn for three segments of which the first and last have two tokens::

        rank_k   0 0 1 2 2
        rank_q 0 x x . . .
               0 x x . . .
               1 x x x . .
               2 x x x x x
               2 x x x x x

    Ranks of the queries (B, Q) and of the keys (B, N).
    """
    return Mask(query_rank.int(), key_rank.int())


def target_mask(query_rank: Tensor, key_rank: Tensor) -> Mask:
    """Return the mask of self-attention in the decoder: own and earlier segments, but never the first.

    The first segment has no predecessor to be predicted from, so its queries are no keys either::

        rank_k   0 0 1 2 2
        rank_q 1 . . x . .
               2 . . x x x
               2 . . x x x

    Ranks of the queries (B, Q) and of the keys (B, N).
    """
    return Mask(query_rank.int(), key_rank.int().masked_fill(key_rank == 0, NEVER))


def memory_mask(query_rank: Tensor, key_rank: Tensor) -> Mask:
    """Return the mask of cross-attention: a query attends to the tokens of strictly earlier segments.

    ::

        rank_k   0 0 1 2 2
        rank_q 1 x x . . .
               2 x x x . .
               2 x x x . .

    Ranks of the queries (B, Q) and of the memory's tokens (B, N).
    """
    return Mask(query_rank.int() - 1, key_rank.int())
