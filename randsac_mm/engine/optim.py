"""Mixed precision on any device."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.utils import apply_to
from torch import Tensor, nn

from randsac_mm.registry import register


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16; others emulate it: a CPU without AVX-512, a GPU before Ampere."""
    if device.type == 'cpu':
        check = getattr(torch.ops.mkldnn, '_is_mkldnn_bf16_supported', lambda: True)  # of torch 2.1
        return torch.backends.mkldnn.is_available() and check()
    return device.type != 'cuda' or torch.cuda.get_device_capability(device)[0] >= 8


def uses_mixed_precision(wrapper: OptimWrapper, device: torch.device) -> bool:
    """Return whether a wrapper's forward pass on a device runs in mixed precision."""
    if isinstance(wrapper, AutocastOptimWrapper):
        return has_bfloat16(device)
    return type(wrapper).__name__ != 'OptimWrapper'


@register('OPTIM_WRAPPERS', everywhere=True)
class AutocastOptimWrapper(OptimWrapper):
    """Optimiser wrapper whose forward pass runs in bfloat16 where that is safe; weights, gradients, update are float32.

    For any device, and without ``AmpOptimWrapper``'s scaling of the loss. Where bfloat16 is only emulated, which takes
    several times as long as float32, everything runs in float32, and the log says so. With ``modules`` only the named
    parts of the model compute in bfloat16, and return float32: mmcv's RoIAlign and non-maximum suppression know no
    bfloat16.

    Args:
        modules: Names of submodules, dotted, as ``('backbone', 'roi_head.mask_head')``; None: the whole model.
        **kwargs: ``optimizer``, ``accumulative_counts`` and ``clip_grad`` of ``OptimWrapper``.

    Raises:
        ValueError: If ``modules`` is empty.
        AttributeError: In the first step, if the model has no such module.
    """

    def __init__(self, modules: Sequence[str] | None = None, **kwargs: Any) -> None:
        if modules is not None and (isinstance(modules, str) or not modules):
            raise ValueError(f"modules={modules!r} must list names, as ('backbone', 'neck'), or be None for all")
        super().__init__(**kwargs)
        self.modules = modules
        self._is_first_step = True

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enter autocast on the model's device and, between two updates, defer the exchange of gradients."""
        device = next(model.parameters()).device
        whole = model.module if is_model_wrapper(model) else model
        narrow = has_bfloat16(device)
        if self._is_first_step and not narrow:
            print_log(f'This {device.type} only emulates bfloat16; float32 is faster, and used instead', 'current')
        self._is_first_step = False
        with super().optim_context(model), ExitStack() as stack:
            if self.modules is None:
                stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16, enabled=narrow))
            for name in self.modules or ():
                module = whole.get_submodule(name)
                if narrow:
                    stack.enter_context(_cast(module, device.type))
            yield


@contextmanager
def _cast(module: nn.Module, device: str) -> Iterator[None]:
    """Replace a module's forward by one that computes in bfloat16 and returns float32."""
    own, forward = vars(module).get('forward'), module.forward

    @wraps(forward)
    def cast(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device, dtype=torch.bfloat16):
            output = forward(*args, **kwargs)
        return apply_to(output, lambda x: isinstance(x, Tensor) and x.dtype == torch.bfloat16, Tensor.float)

    module.forward = cast
    try:
        yield
    finally:
        del module.forward  # the method of its class is seen again
        if own is not None:
            module.forward = own
