"""Partitions of the token grid into segments (paper sections 3.1, 3.2, 3.3 and appendix A.2).

A partition maps the token grid of every image in a batch to segment ids on one or more levels:

    ids (B, L, N)   int64, tokens in raster order; level 0 holds the segments, level L - 1 the coarsest groups

Levels nest: tokens with the same id on level l have the same id on every level above it. Ids are labels, not ranks:
they may leave gaps (an ellipse that wins no token). Ranks, made by :mod:`.serialization`, have none.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from .draws import SampleGenerator

Grid = tuple[int, int]


class Partition(ABC):
    """Base class of divisions of token grids into segments, and of segments into groups."""

    @abstractmethod
    def check(self, grid: Grid) -> None:
        """Raise a ValueError that names what would work if a grid of tokens cannot be divided as asked."""

    @abstractmethod
    def __call__(self, batch_size: int, grid: Grid, generator: torch.Generator, device: torch.device) -> Tensor:
        """Draw the segment ids of a batch.

        Args:
            batch_size: Number of images B.
            grid: Height and width of the token grid, in tokens; N is their product.
            generator: Source of randomness, on ``device``.
            device: Where the result lives.

        Returns:
            Segment ids (B, L, N), finest level first. It may be an expanded view: do not write to it.
        """

    def tokens_per_segment(self, grid: Grid) -> int | None:
        """Return the size of all segments in tokens, or None if it varies; known without drawing."""
        return None


def parse_hierarchy(hierarchy: int | Sequence[int]) -> tuple[int, ...]:
    """Return a hierarchy, ``16`` or ``(16, 4)`` from fine to coarse, as a tuple.

    Raises:
        ValueError: If a number is not an integer above 1, or the numbers do not fall.

    Example:
        >>> parse_hierarchy(16), parse_hierarchy([16, 4])
        ((16,), (16, 4))
    """
    levels = tuple(hierarchy) if isinstance(hierarchy, Sequence) else (hierarchy,)
    if not levels or any(isinstance(k, bool) or not isinstance(k, int) for k in levels):
        raise ValueError(f'hierarchy={hierarchy!r} must be one number of segments or several, as 16 or (16, 4)')
    if min(levels) < 2:
        raise ValueError(
            f'hierarchy={levels} has a level with {min(levels)} segment(s): a single segment has no predecessor to be '
            'predicted from. Use at least 2 on every level, and leave out a level of 1'
        )
    if any(fine <= coarse for fine, coarse in itertools.pairwise(levels)):
        raise ValueError(f'hierarchy={levels} must fall from fine to coarse, as in (16, 4)')
    return levels


def _check_two_tokens(grid: Grid) -> None:
    if min(grid) < 1 or math.prod(grid) < 2:
        raise ValueError(f'a grid of {grid[0]} x {grid[1]} tokens has nothing to predict: at least 2 tokens are needed')


class PatchPartition(Partition):
    """Every token is a segment: "patch-raster" and "patch-random" of the paper.

    Paper:
        Section 3.1; the square partition with M = 1.
    """

    def check(self, grid: Grid) -> None:
        """See base class."""
        _check_two_tokens(grid)

    def __call__(self, batch_size: int, grid: Grid, generator: torch.Generator, device: torch.device) -> Tensor:
        """See base class; returns (B, 1, N)."""
        self.check(grid)
        return torch.arange(math.prod(grid), device=device).expand(batch_size, 1, -1)

    def tokens_per_segment(self, grid: Grid) -> int:
        """See base class: always 1."""
        return 1


class SquarePartition(Partition):
    """Squares of M x M neighbouring tokens, in larger squares.

    Args:
        hierarchy: Number of squares per level, from fine to coarse. The side M follows from it: K = HW / M^2.

    Raises:
        ValueError: If ``hierarchy`` is malformed (see :func:`parse_hierarchy`).

    Paper:
        Section 3.2 (square segments), section 3.3 (hierarchy).

    Example:
        >>> ids = SquarePartition((16, 4))(1, (4, 4), torch.Generator(), torch.device('cpu'))
        >>> ids[0, 1].view(4, 4).tolist()
        [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    """

    def __init__(self, hierarchy: int | Sequence[int]) -> None:
        self.hierarchy = parse_hierarchy(hierarchy)

    def _sides(self, grid: Grid) -> tuple[int, ...]:
        """Return the side of the squares on every level, in tokens; raise ValueError if there are no such squares."""
        height, width = grid
        _check_two_tokens(grid)
        # side -> number of squares, for every side that tiles the grid; one square alone is no partition
        common = math.gcd(height, width)
        counts = {m: height * width // m**2 for m in range(1, common + 1) if common % m == 0}
        possible = {count: m for m, count in counts.items() if count > 1}
        sides = []
        for k in self.hierarchy:
            if k not in possible:
                raise ValueError(
                    f'a grid of {height} x {width} tokens cannot be divided into {k} squares (hierarchy='
                    f'{self.hierarchy}). Possible numbers of squares: {sorted(possible)}'
                    f'{" (single tokens only)" if len(possible) == 1 else ""}. Choose one of them, another image or '
                    'patch size, or BlobPartition, which takes any number'
                )
            sides.append(possible[k])
        for fine, coarse in itertools.pairwise(sides):
            if coarse % fine:
                above = sorted({c for c, m in possible.items() if m > fine and m % fine == 0}, reverse=True)
                fits = f'it divides into {above}' if above else 'no larger square holds them whole'
                raise ValueError(
                    f'hierarchy={self.hierarchy} does not divide on a grid of {height} x {width} tokens: squares of '
                    f'{coarse} x {coarse} tokens would cut squares of {fine} x {fine}. Above '
                    f'{counts[fine]} squares, {fits}'
                )
        return tuple(sides)

    def check(self, grid: Grid) -> None:
        """See base class."""
        self._sides(grid)

    def __call__(self, batch_size: int, grid: Grid, generator: torch.Generator, device: torch.device) -> Tensor:
        """See base class; the same squares for every image, (B, L, N)."""
        height, width = grid
        rows = torch.arange(height, device=device)[:, None]  # (H, 1)
        columns = torch.arange(width, device=device)[None]  # (1, W)
        levels = [(rows // m) * (width // m) + columns // m for m in self._sides(grid)]  # L x (H, W)
        return torch.stack(levels).flatten(1).expand(batch_size, -1, -1)

    def tokens_per_segment(self, grid: Grid) -> int:
        """See base class: M^2."""
        return self._sides(grid)[0] ** 2


class ShuffledPartition(Partition):
    """Segments of another partition with all tokens permuted at random per image, all levels alike.

    Paper:
        Section 3.2, lower half of Table 5 ("Do segments need to be spatially coherent?").
    """

    def __init__(self, partition: Partition) -> None:
        self.partition = partition

    def check(self, grid: Grid) -> None:
        """See base class."""
        self.partition.check(grid)

    def __call__(self, batch_size: int, grid: Grid, generator: torch.Generator, device: torch.device) -> Tensor:
        """See base class; returns (B, L, N)."""
        ids = self.partition(batch_size, grid, generator, device)  # (B, L, N)
        moved = random_order(batch_size, ids.shape[-1], generator, device)  # (B, N)
        return ids.gather(2, moved[:, None].expand_as(ids))

    def tokens_per_segment(self, grid: Grid) -> int | None:
        """See base class: that of the partition beneath."""
        return self.partition.tokens_per_segment(grid)


def random_order(batch_size: int, size: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw one uniformly random permutation of ``0 .. size - 1`` per image: (B, size), int64."""
    # 62-bit keys: with float32's 24 bits, ties among 64 tokens would favour raster order in one batch of thousands
    if isinstance(generator, SampleGenerator):
        return generator.integers(size).argsort(dim=1)
    return torch.randint(2**62, (batch_size, size), generator=generator, device=device).argsort(dim=1)
