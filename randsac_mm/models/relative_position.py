"""Relative position bias: one learned number per head and offset between two tokens, as in BEiT.

The bias of N tokens is a matrix (h, N, N) and has to be stored, with its gradient, and an attention kernel that takes
such a bias and gives it a gradient may store its logits too. At 4,096 tokens and 12 heads one such matrix is 0.8 GB in
float32: train large images without it, or keep most layers to windows.
"""

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from randsac_mm.transfer.resize import offsets, resize_bias_table


def zero_table(grid: tuple[int, int], num_heads: int) -> nn.Parameter:
    """Make a table ((2 * rows - 1) * (2 * columns - 1), h) that changes nothing yet."""
    rows, columns = offsets(grid)
    return nn.Parameter(torch.zeros(rows * columns, num_heads))


def relative_bias(table: Tensor, source: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Lay a table of biases out for every pair of tokens.

    No index is stored: sliding windows over the table are what the keys of each row and column of queries see.

    Args:
        table: Biases ((2 * rows - 1) * (2 * columns - 1), h), as :func:`randsac_mm.transfer.resize.resize_bias_table`
            has them: the offset is the query's place minus the key's.
        source: Rows and columns of the grid that the table was made for.
        grid: Rows and columns of the N tokens that attend. The table is resized to them.

    Returns:
        Bias (h, N, N) of query and key, tokens in raster order.

    Example:
        >>> table = torch.arange(3.0)[:, None]  # offsets -1, 0, 1 along a row of two tokens
        >>> relative_bias(table, (1, 2), (1, 2)).tolist()
        [[[1.0, 0.0], [2.0, 1.0]]]
    """
    rows, columns = grid
    image = resize_bias_table(table, source, grid).T.unflatten(1, offsets(grid))  # (h, y, x) of the offsets
    # From the largest offset down, a query in row y sees keys 0, 1, 2, .. from place rows - 1 - y on.
    views = image.flip(1, 2).unfold(1, rows, 1).unfold(2, columns, 1)  # (h, place y, place x, key y, key x)
    return views.flip(1, 2).flatten(3).flatten(1, 2)


class RelativePositionBias(BaseModule):
    """Hold a table that all layers share; parameter name of mmpretrain's BEiT.

    Args:
        grid: Rows and columns of tokens that the table is made for.
        num_heads: Number of heads h.
    """

    def __init__(self, grid: tuple[int, int], num_heads: int) -> None:
        super().__init__()
        self.bias_grid = grid
        self.relative_position_bias_table = zero_table(grid, num_heads)

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """Make the bias (1, h, N, N) for a grid of N tokens, resized if that is not the table's own."""
        return relative_bias(self.relative_position_bias_table, self.bias_grid, grid)[None]
