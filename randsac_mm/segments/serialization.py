"""Serializations: in which order the segments of a partition are predicted (paper sections 3.1 and 3.3).

The result, and from here on the only truth, is the rank:

    rank (B, N)   int64, tokens in raster order; rank[b, n] is the place of token n's segment in image b's order,
                  counted from 0 without gaps
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .partition import Grid, Partition, random_order


class Serialization(ABC):
    """Base class of orders of the segments of a partition: whole groups one after the other, level by level."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition

    @abstractmethod
    def _places(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Return the place (B, N) in 0 .. N - 1 of each token's segment among those of one level, with ids (B, N)."""

    def __call__(self, batch_size: int, grid: Grid, generator: torch.Generator, device: torch.device) -> Tensor:
        """Draw the serialization of a batch; arguments as of :meth:`Partition.__call__`.

        Returns:
            The rank of each token's segment (B, N), int64, dense from 0.

        Raises:
            ValueError: If the partition does not fit the grid.
        """
        levels = self.partition(batch_size, grid, generator, device).unbind(1)  # L x (B, N), fine to coarse
        rank = torch.zeros_like(levels[-1])
        for ids in reversed(levels):
            # Inside equal ranks the finer level decides; ranks of earlier levels stay in front (section 3.3).
            rank = dense_rank(rank * ids.shape[1] + self._places(ids, generator))
        return rank

    def tokens_per_segment(self, grid: Grid) -> int | None:
        """Return how many tokens every segment has, or None if that number varies (see :class:`Partition`)."""
        return self.partition.tokens_per_segment(grid)


class RandomSerialization(Serialization):
    """Groups in random order and, inside each, its segments in random order, per image.

    All orders that keep groups together are equally likely.

    Paper:
        Section 3.1 (stochastic serialization), section 3.3 (hierarchical serialization).
    """

    def _places(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        # Ids are below N, so a permutation of N places serves any level; gaps close when ranks are made dense.
        batch_size, tokens = ids.shape
        return random_order(batch_size, tokens, generator, ids.device).gather(1, ids)


class RasterSerialization(Serialization):
    """Segments row by row, by their first token: the fixed order of image GPT, the paper's baseline.

    Paper:
        Section 3.1 ("pixel-raster", "patch-raster").
    """

    def _places(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        tokens = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        first = torch.full_like(ids, ids.shape[1]).scatter_reduce(1, ids, tokens, 'amin')  # (B, N): id -> first token
        return first.gather(1, ids)


def dense_rank(keys: Tensor) -> Tensor:
    """Replace keys (B, N) by their place among the different keys of the same row, int64, from 0 without gaps.

    Example:
        >>> dense_rank(torch.tensor([[7, 2, 7, 30]]))
        tensor([[1, 0, 1, 2]])
    """
    ordered, places = keys.sort(dim=1)
    steps = torch.zeros_like(ordered, dtype=torch.int64)
    steps[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.empty_like(steps).scatter_(1, places, steps.cumsum(1))
