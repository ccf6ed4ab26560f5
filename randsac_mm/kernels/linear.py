"""Linear layers on the fastest matrix product of the processor.

In float32 PyTorch multiplies with MKL, which on AMD processors leaves half of an AVX-512 unit idle; oneDNN, which
PyTorch carries as well and uses for bfloat16, does not. Same arithmetic, same precision, other kernel.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .autocast import autocast_dtype

LINEAR_BACKENDS = ('torch', 'onednn')
_MIN_PRODUCTS = 1 << 20  # below, the call costs more than the faster kernel saves

_backend = 'torch'
_onednn: Any = None  # the operator; None where it cannot be had


def _define() -> Any:
    """Register two operators over oneDNN, opaque to torch.compile, which would copy transposed operands."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.library, 'register_autograd')):
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
    multiply = torch.ops.randsac_mm.matmul_transposed
    return (
        multiply(grad, weight.t(), None) if for_x else None,
        _multiply_for_weight(grad, x) if for_weight else None,
        grad.sum(dim=0) if for_bias else None,
    )


def _multiply_for_weight(grad: Tensor, x: Tensor) -> Tensor:
    """Multiply (M, O) and (M, K) to (O, K), transposing in memory what is smaller.

    The transposed copy is made here, not in the operator, because compiled code makes it several times faster.
    """
    multiply = torch.ops.randsac_mm.matmul_transposed
    (rows, wide), narrow = grad.shape, x.shape[1]
    if rows * wide <= narrow * (rows + wide):
        return multiply(grad.t().contiguous(), x.t(), None)
    return multiply(x.t().contiguous(), grad.t(), None).t().contiguous()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear layer with the back-end in force; small products and other devices and types always PyTorch's.

    Args:
        x: Inputs (..., D_in).
        weight: Weight (D_out, D_in).
        bias: Bias (D_out,) or None.

    Returns:
        Outputs (..., D_out).

    Example:
        >>> linear(torch.ones(2, 3), torch.ones(4, 3)).shape
        torch.Size([2, 4])
    """
    if _backend == 'onednn' and _suits(x, weight):
        return _onednn(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])
    return F.linear(x, weight, bias)


def _suits(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == 'cpu'
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= _MIN_PRODUCTS
        and autocast_dtype('cpu') is None
    )


def linear_backends() -> dict[str, str | None]:
    """List the back-ends: for each name None if it works here, else the reason why it does not.

    Example:
        >>> linear_backends()['torch'] is None
        True
    """
    global _onednn
    _onednn = _onednn or _define()
    reason = f'it needs PyTorch 2.4 or later, built with oneDNN; this is {torch.__version__}'
    return {'torch': None, 'onednn': None if _onednn is not None else reason}


class use_linear:  # noqa: N801  # it reads like a function, as torch.no_grad does
    """Set the back-end of :func:`linear` for the whole process; in a ``with`` statement, until its end.

    Args:
        name: ``'torch'`` or ``'onednn'``.

    Raises:
        ValueError: If there is no such back-end, or it does not work here; the message says why.

    Example:
        >>> with use_linear('torch'):
        ...     linear(torch.ones(2, 3), torch.ones(4, 3)).shape
        torch.Size([2, 4])
    """

    def __init__(self, name: str) -> None:
        global _backend
        if name not in LINEAR_BACKENDS:
            raise ValueError(f'linear back-end {name!r} must be one of {", ".join(map(repr, LINEAR_BACKENDS))}')
        reason = linear_backends()[name]
        if reason:
            raise ValueError(f"linear back-end {name!r} is not available: {reason}. Choose 'torch'")
        self._previous, _backend = _backend, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        global _backend
        _backend = self._previous


def linear_backend() -> str:
    """Name the back-end in force."""
    return _backend
