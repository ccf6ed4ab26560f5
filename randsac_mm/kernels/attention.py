"""Attention with ranks in place of a mask: back-ends that compute the same function.

``'sdpa'``    PyTorch's fused kernels with an additive bias.
``'plain'``   matrix product, softmax, matrix product: deterministic, fused by ``torch.compile``.
``'triton'``  our own kernels for GPUs, which read the ranks.

They agree for queries that have a key. Other queries get finite values without a meaning: 0 without gradients, with
``'sdpa'`` the mean of all values.

Shapes: B images, h heads, Q queries, N keys, d dims of a head.
"""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor

from randsac_mm.segments import Mask

from . import triton_ranks

try:
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError:  # before torch 2.3, where cuDNN attention did not exist either
    sdpa_kernel = None  # type: ignore[assignment]
_is_compiling = getattr(getattr(torch, 'compiler', None), 'is_compiling', lambda: False)  # of torch 2.3


def choose_backend(name: str, device: torch.device, dtype: torch.dtype, compiled: bool = False) -> str:
    """Return the attention back-end for a name; ``'auto'`` is a fixed rule, so that equal configs give equal numbers.

    It stands for ``'plain'`` in deterministic runs and for queries in bfloat16 in compiled code on a CPU, where fused
    code is faster than SDPA's kernel; else for ``'sdpa'``. Any other name is returned as it is. ``compiled``: whether
    layers are compiled one by one, which code outside of them cannot see.
    """
    if name != 'auto':
        return name
    if torch.are_deterministic_algorithms_enabled():
        return 'plain'
    fused = device.type == 'cpu' and dtype == torch.bfloat16 and (compiled or _is_compiling())
    return 'plain' if fused else 'sdpa'


def check_backend(name: str) -> None:
    """Raise a ValueError with the reason if an attention back-end does not exist or does not work on this machine."""
    if name not in ('auto', *BACKENDS):
        raise ValueError(f'attention={name!r} must be one of {("auto", *BACKENDS)}')
    reason = triton_ranks.missing() if name == 'triton' else None
    if reason:
        raise ValueError(f"attention='triton' is not available: {reason}. Use 'auto'")


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Mask | None = None) -> Tensor:
    """Compute scaled dot-product attention.

    Args:
        query: Queries (B, h, Q, d).
        key: Keys (B, h, N, d).
        value: Values (B, h, N, d).
        mask: The mask, whose ``backend`` computes, see :meth:`randsac_mm.segments.Mask.prepare`. None: every query
            attends to every key, by SDPA.

    Returns:
        Attended values (B, Q, h * d), heads side by side.

    Raises:
        ValueError: If the mask is for other numbers of images or tokens, or the back-end cannot handle these tensors.
    """
    if mask is None:
        return sdpa_attention(query, key, value, None).transpose(1, 2).flatten(2)
    for rank, tokens in ((mask.query_rank, query), (mask.key_rank, key)):
        if rank.shape[1] != tokens.shape[2] or rank.shape[0] not in (1, tokens.shape[0]):
            raise ValueError(
                f'the mask has ranks of shape {tuple(rank.shape)}, but there are {tokens.shape[0]} images of '
                f'{tokens.shape[2]} tokens'
            )
    return BACKENDS[mask.backend](query, key, value, mask).transpose(1, 2).flatten(2)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, mask: Mask) -> Tensor:
    """Compute attention (B, h, Q, d) by matrix products; the softmax of half-precision inputs is float32."""
    wide = torch.promote_types(query.dtype, torch.float32)
    logits = torch.matmul(query, key.transpose(-2, -1)).to(wide) * query.shape[-1] ** -0.5
    # The lowest number instead of minus infinity keeps even an empty row finite, in both directions.
    logits = logits.masked_fill(~mask.dense()[:, None], torch.finfo(wide).min)
    attended = torch.matmul(logits.softmax(dim=-1).to(value.dtype), value)
    return attended.masked_fill(~mask.has_key()[:, None, :, None], 0)


def sdpa_attention(query: Tensor, key: Tensor, value: Tensor, mask: Mask | None) -> Tensor:
    """Compute attention (B, h, Q, d) by ``scaled_dot_product_attention``."""
    bias = None if mask is None or mask.bias is None else mask.bias.to(query.dtype)
    with _trusted_kernels(query.device, bias is not None):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def _trusted_kernels(device: torch.device, masked: bool) -> contextlib.AbstractContextManager:
    """Leave out cuDNN: with a mask and 64 tokens its query gradient can be NaN (PyTorch issue 196678)."""
    if device.type != 'cuda' or sdpa_kernel is None:
        return contextlib.nullcontext()
    flash = [] if masked else [SDPBackend.FLASH_ATTENTION]
    return sdpa_kernel([*flash, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


BACKENDS = {'sdpa': sdpa_attention, 'plain': plain_attention, 'triton': triton_ranks.triton_attention}
