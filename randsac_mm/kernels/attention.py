"""One attention, several back-ends: the same function of queries, keys, values and ranks, computed in different ways.

``'sdpa'``    PyTorch's fused kernels with one additive bias, the default.
``'plain'``   matrix product, softmax, matrix product: the reference, deterministic, fused by ``torch.compile``.
``'flex'``    FlexAttention, compiled for the mask; behind a flag.
``'triton'``  our own kernels, which read ranks.

They agree wherever a query has a key. Where it has none the result is finite and means nothing: 0 without gradients,
with ``'sdpa'`` the mean of all values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import flex, triton_ranks
from .masks import Mask, additive_bias, check_fit, check_ranks
from .plain import plain_attention
from .sdpa import sdpa_attention

_BACKENDS = {
    'sdpa': sdpa_attention,
    'plain': plain_attention,
    'flex': flex.flex_attention,
    'triton': triton_ranks.triton_attention,
}
ATTENTION_BACKENDS = tuple(_BACKENDS)

_backend = 'sdpa'


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Mask | Tensor | None = None) -> Tensor:
    """Attend with scaled dot products, by the back-end in force.

    Args:
        query: Queries (B, h, Q, d).
        key: Keys (B, h, N, d).
        value: Values (B, h, N, d).
        mask: Who may attend to whom, from :func:`make_mask`. A tensor is added to the logits instead, (B or 1, h or 1,
            Q or 1, N), always by SDPA; every row of it must leave something to attend to. None: everybody to everybody.

    Returns:
        Attended values (B, Q, h * d), heads side by side.

    Raises:
        ValueError: If the mask is for other tokens, or the back-end in force cannot handle these tensors.

    Example:
        >>> q = k = v = torch.eye(2)[None, None]  # one image, one head, two tokens
        >>> rank = torch.tensor([[0, 1]])
        >>> attention(q, k, v, make_mask(rank, rank, q.dtype))[0, 0]
        tensor([1., 0.])
    """
    backend = _BACKENDS[_backend]
    if isinstance(mask, Mask):
        check_fit(mask, query, key)
    elif mask is not None:
        backend = sdpa_attention
    return backend(query, key, value, mask).transpose(1, 2).flatten(2)


def make_mask(query_rank: Tensor, key_rank: Tensor, dtype: torch.dtype) -> Mask:
    """Prepare a mask for the back-end in force; once a step, for all layers that share it.

    Args:
        query_rank: Ranks of the queries (B or 1, Q), integers.
        key_rank: Ranks of the keys (B or 1, N), integers; :data:`NEVER` hides a key from everyone.
        dtype: Type that the queries will have.

    Returns:
        A mask by which query i may attend to key j where ``query_rank >= key_rank``. Every back-end can use it; another
        than the one in force makes up what it misses, at every call.

    Raises:
        ValueError: If ranks are no integer matrices of matching batch sizes.
    """
    check_ranks(query_rank, key_rank)
    query_rank, key_rank = query_rank.to(torch.int32).contiguous(), key_rank.to(torch.int32).contiguous()
    bias = additive_bias(query_rank, key_rank, dtype) if _backend == 'sdpa' else None
    blocks = flex.make_blocks(query_rank, key_rank) if _backend == 'flex' else None
    return Mask(query_rank, key_rank, bias, blocks)


def attention_backends(device: torch.device | None = None) -> dict[str, str | None]:
    """List the back-ends.

    Args:
        device: Where the tensors will be. None: anywhere on this machine.

    Returns:
        For each name None if it works here, else the reason why it does not.

    Example:
        >>> attention_backends()['plain'] is None
        True
    """
    return {'sdpa': None, 'plain': None, 'flex': flex.missing(), 'triton': triton_ranks.missing(device)}


def attention_backend() -> str:
    """Name the back-end in force."""
    return _backend


class use_attention:  # noqa: N801  # it reads like a function, as torch.no_grad does
    """Set the back-end of :func:`attention` for the whole process; in a ``with`` statement, until its end.

    Compiled code notices, and compiles anew.

    Args:
        name: One of ``'sdpa'``, ``'plain'``, ``'flex'``, ``'triton'``.

    Raises:
        ValueError: If there is no such back-end, or it does not work on this machine; the message says why.

    Example:
        >>> with use_attention('plain'):
        ...     attention_backend()
        'plain'
        >>> attention_backend()
        'sdpa'
    """

    def __init__(self, name: str) -> None:
        global _backend
        if name not in _BACKENDS:
            raise ValueError(f'attention back-end {name!r} must be one of {", ".join(map(repr, _BACKENDS))}')
        reason = attention_backends()[name]
        if reason:
            raise ValueError(f"attention back-end {name!r} is not available: {reason}. Choose 'sdpa' or 'plain'")
        self._previous, _backend = _backend, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        global _backend
        _backend = self._previous
