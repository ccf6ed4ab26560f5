"""Choose the matrix product of linear layers for a model's own shapes on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from .choice import AUTO, BUDGET, Choice, choose, describe_machine
from .linear import LINEAR_BACKENDS, linear, linear_backends, use_linear

DEFAULT = 'torch'


class LinearShape(NamedTuple):
    """Describe one kind of linear layer in a model.

    Attributes:
        rows: Number of tokens in a batch.
        inputs: Input width.
        outputs: Output width.
    """

    rows: int
    inputs: int
    outputs: int


def _candidate(name: str, shapes: Sequence[LinearShape]) -> Callable[[], None]:
    problems: list[tuple] = []

    def run() -> None:
        if not problems:
            generator = torch.Generator().manual_seed(0)
            for rows, inputs, outputs in shapes:
                sizes = ((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs))
                x, weight, bias, grad = (torch.randn(size, generator=generator) for size in sizes)
                problems.append(([x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()], grad))
        with use_linear(name):
            for tensors, grad in problems:
                torch.autograd.grad(linear(*tensors), tensors, grad)

    return run


def choose_linear(
    shapes: Sequence[LinearShape],
    device: torch.device | str,
    dtype: torch.dtype,
    requested: str = AUTO,
    cache: bool = True,
    budget: float = BUDGET,
) -> Choice:
    """Choose the back-end of linear layers: the one asked for, the one remembered, or the fastest on these shapes.

    There is something to choose on CPUs in float32 only. The environment variable ``RANDSAC_MM_LINEAR`` overrides
    everything. Nothing is set: pass the choice's name to :func:`use_linear`.

    Args:
        shapes: What the model computes.
        device: Where.
        dtype: Type in which linear layers compute.
        requested: A back-end, or ``'auto'``.
        cache: Whether to use what is remembered on disk.
        budget: Time of the measurement in seconds, apart from warm-up.

    Returns:
        The choice; print its report.

    Raises:
        ValueError: If the back-end asked for does not exist.
    """
    device, shapes = torch.device(device), list(dict.fromkeys(shapes))
    some = device.type == 'cpu' and dtype == torch.float32
    names = [name for name, reason in linear_backends().items() if reason is None and (some or name == DEFAULT)]
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        return choose(
            'linear',
            {name: _candidate(name, shapes) if len(names) > 1 else (lambda: None) for name in names},
            describe_machine(device) | {'dtype': str(dtype), 'shapes': shapes},
            default=DEFAULT,
            requested=requested,
            on_request=[name for name in LINEAR_BACKENDS if name not in names],
            cache=cache and len(names) > 1,
            budget=budget,
        )
