"""The rate at which a device multiplies the matrices of a model: the reference of the step's utilisation."""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

Shapes = Counter[tuple[int, int, int]]  # number of linear layers by M rows, K inputs, O outputs


def linear_shapes(model: nn.Module, run: Callable[[], object]) -> Shapes:
    """Count the linear layers of a model by shape while ``run`` runs it, eagerly."""
    shapes: Shapes = Counter()

    def count(layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        shapes[inputs[0].numel() // layer.in_features, layer.in_features, layer.out_features] += 1

    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        run()
    return shapes


def matrix_rates(shapes: Shapes, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Measure the rate of linear layers, forward and backward: three products, 6 M K O operations each layer.

    Returns:
        FLOP/s of PyTorch's product (``'torch'``), of oneDNN's for float32 on a CPU (``'onednn'``), and of each product
        by the faster one (``'best'``).
    """
    kernels = {'torch': 'left @ right.t()'}
    if device.type == 'cpu' and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        kernels['onednn'] = 'torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")'
    totals = dict.fromkeys([*kernels, 'best'], 0.0)
    for (m, k, o), number in shapes.items():
        x, weight, grad = (torch.randn(size, device=device).to(dtype) for size in ((m, k), (o, k), (m, o)))
        # Transposing the gradient is work of the layers, not of the product.
        for left, right in ((x, weight), (grad, weight.t()), (grad.t().contiguous(), x.t())):
            times = {name: _seconds(kernel, left=left, right=right) for name, kernel in kernels.items()}
            for name, seconds in {**times, 'best': min(times.values())}.items():
                totals[name] += number * seconds
    operations = sum(6 * m * k * o * number for (m, k, o), number in shapes.items())
    return {name: operations / seconds for name, seconds in totals.items()}


def _seconds(kernel: str, **operands: Tensor) -> float:
    """Return the seconds of the fastest of some blocks of calls, so that noise does not flatter."""
    timer = Timer(kernel, globals=operands, num_threads=torch.get_num_threads())
    return min(timer.blocked_autorange(min_run_time=0.01).times)
