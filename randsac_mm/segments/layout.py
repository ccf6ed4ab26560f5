"""Layouts: which tokens encoder and decoder read, in which order, and with which masks.

Two layouts, one meaning (section 4.1). In :func:`raster_layout` all tokens stay in raster order: easy to check. In
:func:`sorted_layout` tokens are sorted by rank, the last segment is left out of the encoder and the first out of the
decoder, as the paper describes; with segments of equal size all three masks are one, shared by the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .masks import Mask, memory_mask, source_mask, target_mask


class Layout(NamedTuple):
    """Tokens and masks of one forward pass of encoder and decoder.

    Queries of the first segment may attend to nothing in the decoder. Their values mean nothing and are never read.

    Attributes:
        source: Tokens that enter the encoder, as places in raster order (B, S).
        target: Tokens that the decoder predicts, as places in raster order (B, T).
        source_mask: Encoder self-attention, S queries and S keys.
        target_mask: Decoder self-attention, T queries and T keys.
        memory_mask: Decoder cross-attention, T queries and S keys.
        predicted: Which of the decoder's tokens have a predecessor, so that their prediction counts (B, T), bool.
    """

    source: Tensor
    target: Tensor
    source_mask: Mask
    target_mask: Mask
    memory_mask: Mask
    predicted: Tensor

    def prepare(self, backend: str, dtype: torch.dtype) -> Layout:
        """Return the layout with masks as an attention back-end reads them, see :meth:`Mask.prepare`."""
        source = self.source_mask.prepare(backend, dtype)
        if self.memory_mask is self.source_mask:  # segments of equal size
            return self._replace(source_mask=source, target_mask=source, memory_mask=source)
        target, memory = self.target_mask.prepare(backend, dtype), self.memory_mask.prepare(backend, dtype)
        return self._replace(source_mask=source, target_mask=target, memory_mask=memory)


def raster_layout(rank: Tensor) -> Layout:
    """Return all N tokens in raster order, with masks for each image: the simple path.

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


def sorted_layout(
    rank: Tensor, tokens_per_segment: int | None = None, lengths: tuple[int, int] | None = None
) -> Layout:
    """Return tokens sorted by rank, without those that nothing reads: the fast path.

    Args:
        rank: Ranks (B, N), tokens in raster order, dense from 0, at least two segments per image.
        tokens_per_segment: Size of every segment in tokens if all are equal, else None. With it one mask serves the
            batch and a whole segment is left out at both ends.
        lengths: Tokens S of the encoder and T of the decoder if segments vary in size, see :func:`split_by_length`: no
            image may need more. Default: N - 1 twice, as a segment has at least one token.

    Returns:
        A layout with S = T = N - tokens_per_segment, or of the given lengths.
    """
    order = rank.argsort(dim=1, stable=True)  # (B, N)
    sources, targets = lengths or (rank.shape[1] - (tokens_per_segment or 1),) * 2
    source, target = order[:, :sources], order[:, rank.shape[1] - targets :]
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


def needed_tokens(rank: Tensor) -> Tensor:
    """Return how many tokens encoder and decoder need of each image (2, B), of ranks (B, N): all but one segment."""
    return torch.stack([(rank < rank.amax(dim=1, keepdim=True)).sum(1), (rank > 0).sum(1)])


def split_by_length(rank: Tensor, groups: int) -> list[tuple[Tensor, tuple[int, int], float]]:
    """Sort a batch by the tokens that the encoder needs and split it into groups, each cut to what it needs.

    Lengths are rounded up to one of 16, so that a few shapes serve all batches. The host waits for the device, once.

    Args:
        rank: Ranks (B, N) as in :func:`sorted_layout`.
        groups: Number of groups G, which divides B.

    Returns:
        For each group its images (B / G,), the ``lengths`` of their layout, and their share of all predicted tokens.
    """
    tokens = rank.shape[1]
    needed = needed_tokens(rank)
    order = needed[0].argsort(stable=True)  # (B,)
    needed = needed[:, order].view(2, groups, -1)  # (2, G, B / G)
    step = -(-tokens // 16)
    lengths = (-(-needed.amax(2) // step) * step).clamp(max=tokens - 1)  # (2, G)
    *pairs, predicted = torch.stack([*lengths, needed[1].sum(1)]).tolist()
    shares = [number / sum(predicted) for number in predicted]
    return list(zip(order.chunk(groups), zip(*pairs, strict=True), shares, strict=True))
