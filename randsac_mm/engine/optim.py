"""Mixed precision on any device."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from randsac_mm.registry import register


@register('OPTIM_WRAPPERS', everywhere=True)
class AutocastOptimWrapper(OptimWrapper):
    """Optimiser wrapper whose forward pass runs in bfloat16 where that is safe; weights, gradients, update are float32.

    mmengine's ``AmpOptimWrapper`` refuses a CPU and scales the loss, which bfloat16 does not need. Gradient
    accumulation and clipping work as in ``OptimWrapper``.

    Some operations know no bfloat16, among them mmcv's RoIAlign and non-maximum suppression. With ``modules`` only the
    named parts of the model compute in bfloat16, whatever calls them, and return float32.

    Args:
        dtype: Type of the forward pass. Only ``'bfloat16'``: float16 needs a scaled loss, thus ``AmpOptimWrapper``.
        modules: Names of submodules, dotted, as ``('backbone', 'roi_head.mask_head')``; None: the whole model.
        **kwargs: ``optimizer``, ``accumulative_counts`` and ``clip_grad`` of ``OptimWrapper``.

    Raises:
        ValueError: If ``dtype`` is another type, ``modules`` is empty, or (in the first step) the model has no such
            module.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> wrapper = AutocastOptimWrapper(optimizer=torch.optim.SGD(layer.parameters(), lr=0.1))
        >>> with wrapper.optim_context(layer):
        ...     layer(torch.ones(1, 2)).dtype
        torch.bfloat16
    """

    def __init__(self, dtype: str = 'bfloat16', modules: Sequence[str] | None = None, **kwargs: Any) -> None:
        if dtype != 'bfloat16':
            raise ValueError(f"dtype={dtype!r} must be 'bfloat16'; for float16 use AmpOptimWrapper")
        if modules is not None and (isinstance(modules, str) or not modules):
            raise ValueError(f"modules={modules!r} must list names, as ('backbone', 'neck'), or be None for all")
        super().__init__(**kwargs)
        self.dtype = torch.bfloat16
        self.modules = modules

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enter autocast on the model's device and, between two updates, defer the exchange of gradients.

        Raises:
            ValueError: If the model has no module of a name in ``modules``.
        """
        device = next(model.parameters()).device.type
        with super().optim_context(model), ExitStack() as stack:
            if self.modules is None:
                stack.enter_context(torch.autocast(device, dtype=self.dtype))
            for name in self.modules or ():
                stack.enter_context(self._cast(_submodule(model, name), device))
            yield

    @contextmanager
    def _cast(self, module: nn.Module, device: str) -> Iterator[None]:
        """Replace a module's forward by one that computes in bfloat16 and returns float32."""
        own, forward = vars(module).get('forward'), module.forward

        @wraps(forward)
        def cast(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast(device, dtype=self.dtype):
                output = forward(*args, **kwargs)
            return _float32(output)

        module.forward = cast
        try:
            yield
        finally:
            del module.forward  # the method of its class is seen again
            if own is not None:
                module.forward = own


def _submodule(model: nn.Module, name: str) -> nn.Module:
    if is_model_wrapper(model):
        model = model.module
    try:
        return model.get_submodule(name)
    except AttributeError:
        children = ', '.join(child for child, _ in model.named_children())
        raise ValueError(f'AutocastOptimWrapper.modules: no {name!r} in the model, which has {children}') from None


def _float32(value: Any) -> Any:
    """Convert the bfloat16 tensors in a module's output, however nested in tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    if isinstance(value, dict):
        return type(value)((key, _float32(entry)) for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(_float32(entry) for entry in value)
    return value
