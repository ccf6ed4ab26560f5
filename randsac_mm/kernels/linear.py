"""Linear layers by the fastest float32 matrix product of the processor.

On AMD processors with AVX-512 oneDNN, which PyTorch carries and uses for bfloat16, multiplies large float32 matrices up
to twice as fast as MKL, PyTorch's choice. Same arithmetic and precision, other kernel; a fixed rule decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_MIN_PRODUCTS = 1 << 24  # multiply-adds; in much smaller products the call costs more than the faster kernel saves


def _define() -> Any:
    """Register two operators over oneDNN, opaque to torch.compile, which would copy transposed operands."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.library, 'register_autograd')):  # torch 2.4
        return None
    try:
        product = torch.ops.mkldnn._linear_pointwise.default
    except AttributeError:
        return None

    def multiply(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
        # (M, K), (O, K) -> (M, O). The left operand must be contiguous; the right one may be a transposed view.
        return product(left.contiguous(), right, bias, 'none', [], '')

    for name in ('linear', 'matmul_transposed'):
        torch.library.define(f'randsac_mm::{name}', '(Tensor left, Tensor right, Tensor? bias) -> Tensor')
        torch.library.impl(f'randsac_mm::{name}', 'cpu')(multiply)
        torch.library.register_fake(f'randsac_mm::{name}')(
            lambda left, right, bias: left.new_empty(left.shape[0], right.shape[0])
        )
    torch.library.register_autograd('randsac_mm::linear', _backward, setup_context=_setup)
    return torch.ops.randsac_mm.linear.default


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    for_x, for_weight, for_bias = ctx.needs_input_grad
    return (
        torch.ops.randsac_mm.matmul_transposed(grad, weight.t(), None) if for_x else None,
        _multiply_for_weight(grad, x) if for_weight else None,
        grad.sum(dim=0) if for_bias else None,
    )


def _multiply_for_weight(grad: Tensor, x: Tensor) -> Tensor:
    """Multiply (M, O) and (M, K) to (O, K), transposing in memory the smaller one."""
    # The copy is made here and not in the operator, because compiled code makes it several times faster.
    multiply = torch.ops.randsac_mm.matmul_transposed
    (rows, wide), narrow = grad.shape, x.shape[1]
    if rows * wide <= narrow * (rows + wide):
        return multiply(grad.t().contiguous(), x.t(), None)
    return multiply(x.t().contiguous(), grad.t(), None).t().contiguous()


def _is_amd_with_avx512() -> bool:
    try:
        maker = 'AuthenticAMD' in Path('/proc/cpuinfo').read_text()
    except OSError:
        return False
    return maker and torch.backends.cpu.get_cpu_capability() == 'AVX512'


_onednn = _define()
ONEDNN = _onednn is not None and _is_amd_with_avx512()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute a linear layer, by oneDNN where :data:`ONEDNN` is set and the product is large and float32 on a CPU.

    Args:
        x: Inputs (..., D_in).
        weight: Weight (D_out, D_in).
        bias: Bias (D_out,) or None.

    Returns:
        Outputs (..., D_out).
    """
    if ONEDNN and _suits_onednn(x, weight):
        return _onednn(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])
    return F.linear(x, weight, bias)


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == 'cpu'
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= _MIN_PRODUCTS
        and autocast_dtype('cpu') is None
        # ONNX does not have the operator.
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
    )


def autocast_dtype(device: str) -> torch.dtype | None:
    """Return the type in which autocast computes matrix products on a type of device, None if autocast is off."""
    if hasattr(torch, 'get_autocast_dtype'):
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    if device == 'cpu':  # before torch 2.4 one function for each device
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
