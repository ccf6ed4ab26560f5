"""Who may attend to whom, told by two rows of ranks: query i may attend to key j where ``query_rank >= key_rank``.

One relation says everything about the masks of RandSAC. Source mask: both ranks are the tokens' own. Target mask: keys
of the first segment get the rank :data:`NEVER`, which no query reaches. Memory mask (strictly earlier segments):
queries get their own rank minus one.

Shapes: B images (or 1: shared by all), h heads, Q queries, N keys, d head dims.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from randsac_mm.segments import NEVER

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

ALIGNMENT = 16  # elements; memory-efficient attention copies a bias whose rows start anywhere else, at every call


class Mask(NamedTuple):
    """Hold a mask in all forms that the current attention back-end wants; made by :func:`make_mask` once a step.

    Attributes:
        query_rank: Ranks of the queries (B or 1, Q), int32.
        key_rank: Ranks of the keys (B or 1, N), int32; :data:`NEVER` hides a key from everyone.
        bias: What SDPA adds to the logits (B or 1, 1, Q, N), 0 = may attend, minus infinity = may not. Queries without
            any key are opened to all keys, because a softmax over nothing is undefined.
        blocks: What FlexAttention reads: which tiles of the mask are full, partly open or closed.
    """

    query_rank: Tensor
    key_rank: Tensor
    bias: Tensor | None = None
    blocks: BlockMask | None = None


def check_ranks(query_rank: Tensor, key_rank: Tensor) -> None:
    """Verify that ranks are whole numbers in two matrices of one batch size.

    Raises:
        ValueError: If they are not.
    """
    for name, rank in (('query_rank', query_rank), ('key_rank', key_rank)):
        if rank.ndim != 2 or rank.shape[1] == 0:
            raise ValueError(
                f'{name} has shape {tuple(rank.shape)}: it must be (images or 1, tokens), at least one token'
            )
        if rank.dtype.is_floating_point or rank.dtype.is_complex or rank.dtype == torch.bool:
            raise ValueError(f'{name} is {rank.dtype}: ranks are integers')
    sizes = {query_rank.shape[0], key_rank.shape[0]}
    if len(sizes - {1}) > 1:
        raise ValueError(
            f'query_rank is for {query_rank.shape[0]} images and key_rank for {key_rank.shape[0]}: '
            'both need the same number, or 1 to be shared'
        )


def check_fit(mask: Mask, query: Tensor, key: Tensor) -> None:
    """Verify that a mask belongs to queries (B, h, Q, d) and keys (B, h, N, d).

    Raises:
        ValueError: If numbers of images or tokens differ.
    """
    for name, rank, tokens in (('query_rank', mask.query_rank, query), ('key_rank', mask.key_rank, key)):
        if rank.shape[1] != tokens.shape[2] or rank.shape[0] not in (1, tokens.shape[0]):
            raise ValueError(
                f'the mask has {name} of shape {tuple(rank.shape)}, but there are {tokens.shape[0]} images of '
                f'{tokens.shape[2]} tokens: make the mask from the ranks of these tokens'
            )


def sees_something(query_rank: Tensor, key_rank: Tensor) -> Tensor:
    """Tell which queries may attend to at least one key.

    Args:
        query_rank: Ranks of the queries (B or 1, Q).
        key_rank: Ranks of the keys (B or 1, N).

    Returns:
        (B or 1, Q), bool.

    Example:
        >>> sees_something(torch.tensor([[0, 1, 2]]), torch.tensor([[2, 1, NEVER]]))
        tensor([[False,  True,  True]])
    """
    return query_rank >= key_rank.amin(dim=1, keepdim=True)


def open_empty_rows(query_rank: Tensor, key_rank: Tensor) -> Tensor:
    """Raise the rank of queries that may attend to nothing, so that they may attend to everything.

    Args:
        query_rank: Ranks of the queries (B or 1, Q), int32.
        key_rank: Ranks of the keys (B or 1, N), int32.

    Returns:
        Ranks of the queries (B or 1, Q), int32.
    """
    return query_rank.masked_fill(~sees_something(query_rank, key_rank), NEVER)


def may_attend(query_rank: Tensor, key_rank: Tensor) -> Tensor:
    """Draw the mask.

    Args:
        query_rank: Ranks of the queries (B or 1, Q).
        key_rank: Ranks of the keys (B or 1, N).

    Returns:
        Mask (B or 1, 1, Q, N), bool, True = may attend, to be broadcast over heads.

    Example:
        >>> may_attend(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 1]]))[0, 0].int()
        tensor([[1, 1, 0],
                [1, 1, 1],
                [1, 1, 1]], dtype=torch.int32)
    """
    return query_rank[:, None, :, None] >= key_rank[:, None, None, :]


def additive_bias(query_rank: Tensor, key_rank: Tensor, dtype: torch.dtype) -> Tensor:
    """Make what SDPA adds to its logits, with rows at multiples of :data:`ALIGNMENT`, so that no kernel copies it.

    Args:
        query_rank: Ranks of the queries (B or 1, Q), int32.
        key_rank: Ranks of the keys (B or 1, N), int32.
        dtype: Type of the queries.

    Returns:
        Bias (B or 1, 1, Q, N), 0 = may attend, minus infinity = may not. Rows without any key are 0.
    """
    hidden = ~may_attend(open_empty_rows(query_rank, key_rank), key_rank)
    images, _, queries, keys = hidden.shape
    row = -(-keys // ALIGNMENT) * ALIGNMENT
    bias = torch.zeros(images, 1, queries, row, dtype=dtype, device=hidden.device)[..., :keys]
    return bias.masked_fill_(hidden, float('-inf'))
