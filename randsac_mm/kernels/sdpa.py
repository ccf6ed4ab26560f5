"""Attention by PyTorch's own fused kernels, with a shared additive bias and without cuDNN."""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor

from .masks import Mask, additive_bias

try:
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError:  # before torch 2.3, where cuDNN attention did not exist either
    sdpa_kernel = None
    WITH_MASK = WITHOUT_MASK = []
else:
    # cuDNN is left out: with a mask and 64 tokens its query gradient can be NaN (PyTorch issue 196678).
    WITH_MASK = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    WITHOUT_MASK = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def _pinned(device: torch.device, masked: bool) -> contextlib.AbstractContextManager:
    """Restrict SDPA to kernels that we trust; on a CPU there is nothing to restrict."""
    if device.type != 'cuda' or sdpa_kernel is None:
        return contextlib.nullcontext()
    return sdpa_kernel(WITH_MASK if masked else WITHOUT_MASK)


def sdpa_attention(query: Tensor, key: Tensor, value: Tensor, mask: Mask | Tensor | None) -> Tensor:
    """Attend with ``scaled_dot_product_attention``.

    Args:
        query: Queries (B, h, Q, d).
        key: Keys (B, h, N, d).
        value: Values (B, h, N, d).
        mask: Who may attend to whom, or what is added to the logits (B or 1, h or 1, Q or 1, N); None: nothing.

    Returns:
        Attended values (B, h, Q, d). Queries without any key get the mean of all values.
    """
    bias = mask.bias if isinstance(mask, Mask) else mask
    if isinstance(mask, Mask) and (bias is None or bias.dtype != query.dtype):
        bias = additive_bias(mask.query_rank, mask.key_rank, query.dtype)
    elif bias is not None and bias.dtype != query.dtype:
        bias = bias.to(query.dtype)
    with _pinned(query.device, bias is not None):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
