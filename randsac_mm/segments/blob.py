"""Blob segments: irregular ellipses from a random mixture of Gaussians (paper appendix A.2, equation 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .draws import draw_uniform
from .partition import Grid, Partition, _check_two_tokens, parse_hierarchy

_EXTENT = 2.0  # token positions span [-2, 2] on both axes (A.2)


class BlobPartition(Partition):
    """Elliptical segments: each token belongs to the closest of K random axis-aligned Gaussians.

    A token at (y, x) goes to the component with the least ((y - m_y) / s_y)^2 + ((x - m_x) / s_x)^2. Coarser levels
    follow "the same logic" (section 3.3): fresh Gaussians, and each blob goes whole to the one closest to the centroid
    of its tokens. A component may win no token, so an image can have fewer segments than asked, but at least two.

    Args:
        hierarchy: Number of Gaussians per level, from fine to coarse: ``11`` or ``(11, 5)``.
        mean_range: Interval of the uniform distribution of the means. The paper names the distribution, its published
            text lost the numbers. Default: the whole grid.
        std_range: Interval of the uniform distribution of the standard deviations, same units (the grid is 4 wide).
            Lost as well. Only the ratio of its ends matters, since distances are compared and never thresholded.
            Default (0.5, 1.5): ellipses up to three times as long as wide and clearly unequal in size, while of 11
            components on an 8 x 8 grid 10.7 win a token on average.

    Raises:
        ValueError: If ``hierarchy`` is malformed, an interval is empty, or a standard deviation could be 0 or less.

    Paper:
        Section 3.2 (blob segments), appendix A.2 equation 1.
    """

    def __init__(
        self,
        hierarchy: int | Sequence[int],
        mean_range: tuple[float, float] = (-_EXTENT, _EXTENT),
        std_range: tuple[float, float] = (0.5, 1.5),
    ) -> None:
        self.hierarchy = parse_hierarchy(hierarchy)
        self.mean_range = _parse_range('mean_range', mean_range, -math.inf)
        self.std_range = _parse_range('std_range', std_range, 0.0)

    def check(self, grid: Grid) -> None:
        """See base class."""
        _check_two_tokens(grid)
        tokens = math.prod(grid)
        if self.hierarchy[0] > tokens:
            raise ValueError(
                f'hierarchy={self.hierarchy} asks for more segments than tokens: a grid of {grid[0]} x {grid[1]} has '
                f'{tokens}. Use at most {tokens}, a larger image or a smaller patch size'
            )

    def __call__(self, batch_size: int, grid: Grid, generator: torch.Generator, device: torch.device) -> Tensor:
        """See base class; returns (B, L, N)."""
        self.check(grid)
        tokens = _positions(grid, device).expand(batch_size, -1, -1)  # (B, N, 2)
        levels = [_at_least_two(*self._closest_two(tokens, self.hierarchy[0], generator))]
        for coarser, k in zip(self.hierarchy, self.hierarchy[1:], strict=False):
            centroids = _centroids(tokens, levels[-1], coarser)  # (B, K', 2)
            group = self._closest_two(centroids, k, generator)[0]  # (B, K')
            levels.append(group.gather(1, levels[-1]))  # (B, N)
        return torch.stack(levels, dim=1)

    def _closest_two(self, points: Tensor, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw ``k`` components; return the closest two to each point (B, M, 2), as ids, and the difference (B, M)."""
        draws = draw_uniform((2, len(points), 1, k, 2), generator, batch_dim=1)  # mean and std per axis
        mean = draws[0] * (self.mean_range[1] - self.mean_range[0]) + self.mean_range[0]  # (B, 1, K, 2)
        std = draws[1] * (self.std_range[1] - self.std_range[0]) + self.std_range[0]
        distance = ((points[:, :, None] - mean) / std).square().sum(-1)  # (B, M, K) squared Mahalanobis distance
        (first, second), (closest, runner_up) = (t.unbind(-1) for t in distance.topk(2, largest=False))
        return closest, runner_up, second - first


def _parse_range(name: str, ends: Sequence[float], above: float) -> tuple[float, float]:
    """Check that an interval is two finite numbers greater than ``above``, the smaller one first."""
    if not isinstance(ends, Sequence) or len(ends) != 2 or not above < ends[0] <= ends[1] < math.inf:
        limit = f'{above:g} < low <= high' if above > -math.inf else 'low <= high'
        raise ValueError(f'{name}={ends!r} must be two finite numbers (low, high) with {limit}')
    return ends[0], ends[1]


def _positions(grid: Grid, device: torch.device) -> Tensor:
    """Return the normalised positions (N, 2) of all tokens: (-2, -2) top left, (2, 2) bottom right."""
    axes = [
        torch.linspace(-_EXTENT, _EXTENT, n, device=device) if n > 1 else torch.zeros(1, device=device) for n in grid
    ]
    return torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1).flatten(0, 1)


def _centroids(points: Tensor, ids: Tensor, k: int) -> Tensor:
    """Average the points (B, N, 2) of each of ``k`` segments with ids (B, N): (B, K, 2), an empty one at the centre."""
    sums = points.new_zeros(len(ids), k, 3)
    with_ones = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)  # (B, N, 3)
    sums.scatter_add_(1, ids[..., None].expand_as(with_ones), with_ones)
    return sums[..., :2] / sums[..., 2:].clamp(min=1)


def _at_least_two(closest: Tensor, runner_up: Tensor, margin: Tensor) -> Tensor:
    """Split off the token with the smallest margin where one blob covers a whole image, which cannot be predicted."""
    alone = (closest == closest[:, :1]).all(dim=1, keepdim=True)  # (B, 1)
    undecided = torch.zeros_like(alone.expand_as(closest)).scatter(1, margin.argmin(dim=1, keepdim=True), True)
    return torch.where(alone & undecided, runner_up, closest)
