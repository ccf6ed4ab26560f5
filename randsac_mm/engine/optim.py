"""Mixed precision on any device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from randsac_mm.registry import register


@register('OPTIM_WRAPPERS', everywhere=True)
class AutocastOptimWrapper(OptimWrapper):
    """Run the forward pass in bfloat16 where that is safe; weights, gradients and the update stay float32.

    mmengine's ``AmpOptimWrapper`` refuses a CPU and scales the loss, which bfloat16 does not need. This one follows the
    device of the model. Gradient accumulation and clipping work as in ``OptimWrapper``.

    Args:
        dtype: Type of the forward pass. Only ``'bfloat16'``: float16 needs a scaled loss, thus ``AmpOptimWrapper``.
        **kwargs: ``optimizer``, ``accumulative_counts`` and ``clip_grad`` of ``OptimWrapper``.

    Raises:
        ValueError: If ``dtype`` is another type.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> wrapper = AutocastOptimWrapper(optimizer=torch.optim.SGD(layer.parameters(), lr=0.1))
        >>> with wrapper.optim_context(layer):
        ...     layer(torch.ones(1, 2)).dtype
        torch.bfloat16
    """

    def __init__(self, dtype: str = 'bfloat16', **kwargs: Any) -> None:
        if dtype != 'bfloat16':
            raise ValueError(
                f"AutocastOptimWrapper computes in dtype='bfloat16', not in {dtype!r}; use AmpOptimWrapper for float16 "
                'and OptimWrapper for float32'
            )
        super().__init__(**kwargs)
        self.dtype = torch.bfloat16

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enter autocast on the model's device and, between two updates, hold back the exchange of gradients."""
        device = next(model.parameters()).device
        with super().optim_context(model), torch.autocast(device.type, dtype=self.dtype):
            yield
