"""The rate at which a device multiplies the very matrices of a model: what utilisation is quoted against.

Every linear layer of M rows, K inputs and O outputs is three products of equal work: forward (M, K) (K, O), gradient of
the input (M, O) (O, K), gradient of the weight (O, M) (M, K). The rate is the work of all of them over their time.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from measure import Marks, synchronize
from torch import Tensor

from randsac_mm.kernels.linear import linear_backends
from randsac_mm.models import RandSAC

KINDS = ('forward', 'input', 'weight')
_SECONDS = {'cpu': 3e-3, 'cuda': 5e-4}  # a product is repeated until it lasts that long
_TRIES = 3  # of which the fastest counts: a rate that noise has lowered would flatter


class Shape(NamedTuple):
    """Describe a linear layer at work: M rows, K inputs, O outputs."""

    rows: int
    inputs: int
    outputs: int


def linear_shapes(model: RandSAC, batch: int) -> Counter[Shape]:
    """List the linear layers of a pre-training step, and how often each shape occurs.

    Args:
        model: The model.
        batch: Images B in a step.

    Returns:
        Number of layers by shape. Rows are B times the tokens that really enter, as in the sorted layout.
    """
    backbone, neck, head = model.backbone, model.neck, model.head
    grid = backbone.patch_resolution
    left_out = model.data_preprocessor.serialization.tokens_per_segment(grid) or 1
    rows = batch * (grid[0] * grid[1] - left_out)
    e, d, patch = backbone.embed_dims, neck.embed_dims, backbone.patch_size**2 * backbone.in_channels
    wide, wider = (layers[0].ffn.layers[0][0].out_features for layers in (backbone.layers, neck.layers))
    shapes: Counter[Shape] = Counter()
    for number, pairs in (
        (1, [(patch, e), (head.embed_dims, patch)]),
        (backbone.num_layers, [(e, 3 * e), (e, e), (e, wide), (wide, e)]),
        (neck.num_layers, [(d, 3 * d), (d, d), (d, d), (e, 2 * d), (d, d), (d, wider), (wider, d)]),
    ):
        for inputs, outputs in pairs:
            shapes[Shape(rows, inputs, outputs)] += number
    return shapes


def backends(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Name the kernels that can multiply on a device in a type: PyTorch's own first."""
    if device.type != 'cpu' or dtype != torch.float32:
        return ['torch']
    return [name for name, missing in linear_backends().items() if not missing]


class RateMeter:
    """Measure the matrix rate of a model's shapes, some milliseconds at a time.

    Args:
        shapes: Linear layers, see :func:`linear_shapes`.
        device: Where.
        dtype: Type of the operands.
    """

    def __init__(self, shapes: Counter[Shape], device: torch.device, dtype: torch.dtype) -> None:
        self.shapes, self.device = shapes, device
        self.backends = backends(device, dtype)

        def random(*size: int) -> Tensor:
            return torch.randn(size, device=device).to(dtype)  # zeros would spare the chip's power

        self.products: dict[tuple[Shape, str, str], tuple[Callable[[], Tensor], int]] = {}
        for shape in shapes:
            m, k, o = shape
            operands = random(m, k), random(o, k), random(m, o)
            for backend in self.backends:
                for kind, run in _products(backend, *operands).items():
                    self.products[shape, kind, backend] = run, self._repeats(run)

    @property
    def flops(self) -> int:
        """Operations of one step in all these products, two for a multiply-add."""
        return sum(6 * m * k * o * number for (m, k, o), number in self.shapes.items())

    def sweep(self) -> dict[str, float]:
        """Run every product of every shape and give the rates, in FLOP/s.

        Returns:
            The rate of each back-end, and ``best``: each product by whichever was fastest this time.
        """
        seconds = {}
        for key, (run, repeats) in self.products.items():
            marks = Marks(self.device)
            marks.set()
            for _ in range(_TRIES):
                for _ in range(repeats):
                    run()
                marks.set()
            seconds[key] = min(marks.seconds()) / repeats
        totals = dict.fromkeys([*self.backends, 'best'], 0.0)
        for shape, number in self.shapes.items():
            for kind in KINDS:
                each = {backend: seconds[shape, kind, backend] for backend in self.backends}
                for backend, time_of in {**each, 'best': min(each.values())}.items():
                    totals[backend] += number * time_of
        return {backend: self.flops / total for backend, total in totals.items()}

    def _repeats(self, run: Callable[[], Tensor]) -> int:
        run()
        synchronize(self.device)
        start = time.perf_counter()
        run()
        synchronize(self.device)
        once = max(time.perf_counter() - start, 1e-7)
        return max(1, min(200, round(_SECONDS[self.device.type] / once)))


def _products(backend: str, x: Tensor, weight: Tensor, grad: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Give the three products of a linear layer; operands x (M, K), weight (O, K), gradient of the output (M, O)."""
    if backend == 'torch':
        return dict(
            forward=lambda: x @ weight.t(),
            input=lambda: grad @ weight,
            weight=lambda: grad.t() @ x,
        )
    product = torch.ops.randsac_mm.matmul_transposed  # (M, K), (O, K) -> (M, O), as the layers of the package use it
    turned = grad.t().contiguous()  # it wants one; the copy is the layers' affair and slows no rate
    return dict(
        forward=lambda: product(x, weight, None),
        input=lambda: product(grad, weight.t(), None),
        weight=lambda: product(turned, x.t(), None),
    )


def square_rate(device: torch.device, dtype: torch.dtype, side: int = 8192) -> float:
    """Measure the rate of a large square product in FLOP/s, by which chips are compared."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    for _ in range(3):
        left @ right
    marks = Marks(device)
    marks.set()
    for _ in range(10):
        left @ right
    marks.set()
    return 10 * 2 * side**3 / marks.seconds()[0]
