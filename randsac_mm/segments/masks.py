"""Attention masks of the block-causal model, from ranks (paper section 4.1, Figure 4). True = may attend."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NEVER = torch.iinfo(torch.int32).max  # rank of a key that nobody may attend to


class RankMask(NamedTuple):
    """Hold a mask as two rows of numbers: a query may attend to a key unless the key's number is greater.

    All three masks of the model are of this form, so a kernel can compare numbers instead of reading a matrix.

    Attributes:
        query_rank: Numbers of the queries (B or 1, Q), int32.
        key_rank: Numbers of the keys (B or 1, N), int32.
    """

    query_rank: Tensor
    key_rank: Tensor

    def dense(self) -> Tensor:
        """Write the mask out: (B or 1, Q, N), bool, True = may attend."""
        return self.query_rank[:, :, None] >= self.key_rank[:, None, :]


def source_mask(query_rank: Tensor, key_rank: Tensor) -> RankMask:
    """Let a token attend to its own segment and to earlier ones: encoder and decoder self-attention.

    Drawn for three segments of which the first and last have two tokens::

        rank_k   0 0 1 2 2
        rank_q 0 x x . . .
               0 x x . . .
               1 x x x . .
               2 x x x x x
               2 x x x x x

    Args:
        query_rank: Ranks of the queries (B, Q).
        key_rank: Ranks of the keys (B, N).

    Returns:
        The mask; :meth:`RankMask.dense` writes it out.
    """
    return RankMask(query_rank.int(), key_rank.int())


def target_mask(query_rank: Tensor, key_rank: Tensor) -> RankMask:
    """Let a query attend to queries of its own and earlier segments, but never of the first: decoder self-attention.

    The first segment has no predecessor to be predicted from, so its queries mean nothing, not even as keys::

        rank_k   0 0 1 2 2
        rank_q 1 . . x . .
               2 . . x x x
               2 . . x x x

    Args:
        query_rank: Ranks of the queries (B, Q).
        key_rank: Ranks of the keys (B, N).

    Returns:
        The mask; :meth:`RankMask.dense` writes it out.
    """
    return RankMask(query_rank.int(), key_rank.int().masked_fill(key_rank == 0, NEVER))


def memory_mask(query_rank: Tensor, key_rank: Tensor) -> RankMask:
    """Let a query attend to the tokens of strictly earlier segments: cross-attention.

    ::

        rank_k   0 0 1 2 2
        rank_q 1 x x . . .
               2 x x x . .
               2 x x x . .

    Args:
        query_rank: Ranks of the queries (B, Q).
        key_rank: Ranks of the memory's tokens (B, N).

    Returns:
        The mask; :meth:`RankMask.dense` writes it out.
    """
    return RankMask(query_rank.int() - 1, key_rank.int())
