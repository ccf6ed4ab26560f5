"""Layouts: which tokens the encoder and the decoder see, in which order, and who may attend to whom.

Two layouts, one meaning (section 4.1). In :func:`raster_layout` everything stays where it is: easy to check. In
:func:`sorted_layout` tokens are sorted by rank, the last segment is left out of the encoder and the first out of the
decoder, as the paper describes, and with segments of equal size all three masks become one that the whole batch shares.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .masks import RankMask, memory_mask, source_mask, target_mask


class Layout(NamedTuple):
    """Describe one forward pass of encoder and decoder.

    Attributes:
        source: Tokens that enter the encoder, as places in raster order (B, S).
        target: Tokens that the decoder predicts, as places in raster order (B, T).
        source_mask: Encoder self-attention, of B images or 1 for all, S queries and S keys.
        target_mask: Decoder self-attention, T queries and T keys.
        memory_mask: Decoder cross-attention, T queries and S keys.
        predicted: Which of the decoder's tokens have a predecessor, so that their prediction counts (B, T), bool.

    Queries of the first segment may attend to nothing in the decoder. What they hold means nothing and is never read.
    """

    source: Tensor
    target: Tensor
    source_mask: RankMask
    target_mask: RankMask
    memory_mask: RankMask
    predicted: Tensor


def raster_layout(rank: Tensor) -> Layout:
    """Lay out all N tokens in raster order, with masks of their own for every image: the simple path.

    Args:
        rank: Ranks (B, N), tokens in raster order.

    Returns:
        A layout with S = T = N.
    """
    everything = torch.arange(rank.shape[1], device=rank.device).expand_as(rank)
    return Layout(
        source=everything,
        target=everything,
        source_mask=source_mask(rank, rank),
        target_mask=target_mask(rank, rank),
        memory_mask=memory_mask(rank, rank),
        predicted=rank > 0,
    )


def sorted_layout(rank: Tensor, tokens_per_segment: int | None = None) -> Layout:
    """Lay out tokens by rank and leave out what nobody reads: the fast path.

    Args:
        rank: Ranks (B, N), tokens in raster order, dense from 0, at least two segments per image.
        tokens_per_segment: Size of every segment in tokens if all are equal, else None. With it the masks are built
            once for the batch and a whole segment is left out at both ends. Without it one token is left out at both
            ends (a segment has at least one), so that shapes do not depend on what was drawn.

    Returns:
        A layout with S = T = N - tokens_per_segment, or N - 1.
    """
    order = rank.argsort(dim=1, stable=True)  # (B, N)
    left_out = tokens_per_segment or 1
    source, target = order[:, :-left_out], order[:, left_out:]
    if tokens_per_segment is None:
        source_rank, target_rank = rank.gather(1, source), rank.gather(1, target)
        return Layout(
            source=source,
            target=target,
            source_mask=source_mask(source_rank, source_rank),
            target_mask=target_mask(target_rank, target_rank),
            memory_mask=memory_mask(target_rank, source_rank),
            predicted=target_rank > 0,
        )
    # Query i of the decoder stands one segment after source i, so "strictly earlier" there is "not later" here.
    place = torch.arange(source.shape[1], device=rank.device)[None] // tokens_per_segment  # (1, S)
    shared = source_mask(place, place)
    return Layout(source, target, shared, shared, shared, torch.ones_like(target, dtype=torch.bool))
