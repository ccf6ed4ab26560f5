"""Features of a model in the middle of its training, which does not notice."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from randsac_mm.engine import random_state

from .features import last_output

_SHARDED = {'FullyShardedDataParallel', 'MMDeepSpeedEngineWrapper'}


class ProbedEncoder(nn.Module):
    """See a model as a function from pixels to the tokens of its encoder's last layer.

    Masks and class tokens of other methods' backbones are left out, see :func:`last_output`.

    Args:
        model: The model, wrapped for distributed training or not.
        extract: Name of a method of the model that takes normalised images (B, C, H, W) and returns tokens (B, N, D), a
            feature map (B, D, h, w) or features (B, D), or a sequence of these, of which the last counts. None: the
            backbone, as above.
        optim_wrapper: That of the run, whose precision is used, such as bfloat16 with ``AutocastOptimWrapper``.

    Raises:
        ValueError: If the model is sharded over processes, has no such method, or no backbone.
    """

    def __init__(self, model: nn.Module, extract: str | None = None, optim_wrapper: Any = None) -> None:
        super().__init__()
        kinds = {kind.__name__ for kind in type(model).__mro__}
        if kinds & _SHARDED:
            raise ValueError(
                f'{type(model).__name__} spreads the weights over processes, and OnlineProbeHook needs them whole: '
                'train with DistributedDataParallel, or without the hook and judge checkpoints'
            )
        self.model = model.module if is_model_wrapper(model) else model
        self.extract = extract
        if extract is None and not isinstance(getattr(self.model, 'backbone', None), nn.Module):
            raise ValueError(
                f"{type(self.model).__name__} has no backbone: name the method that gives features, as extract='encode'"
            )
        if extract is not None and not callable(getattr(self.model, extract, None)):
            raise ValueError(f'extract={extract!r} is no method of {type(self.model).__name__}')
        # Several wrappers, mmengine's OptimWrapperDict, have no common precision.
        self._context = None if hasattr(optim_wrapper, 'keys') else getattr(optim_wrapper, 'optim_context', None)

    def forward(self, images: Tensor) -> Tensor:
        """Compute features of normalised images (B, C, H, W): tokens (B, N, D), a map (B, D, h, w) or (B, D)."""
        # An unwrapped model exchanges no gradients, so that only the precision is left of the context.
        with nullcontext() if self._context is None else self._context(self.model):
            return self._features(images)

    def _features(self, images: Tensor) -> Tensor:
        if self.extract is not None:
            return _last(getattr(self.model, self.extract)(images))
        backbone = self.model.backbone
        return last_output(backbone.module if is_model_wrapper(backbone) else backbone, images)

    def normalise(self, images: Tensor) -> Tensor:
        """Prepare images (B, C, H, W), uint8, as the model's data preprocessor does outside training."""
        inputs = self.model.data_preprocessor({'inputs': images, 'data_samples': None}, training=False)['inputs']
        if not isinstance(inputs, Tensor) or len(inputs) != len(images):
            raise ValueError(
                f'{type(self.model.data_preprocessor).__name__} makes no batch of single images: the probe works with '
                'data preprocessors of one view'
            )
        return inputs


def _last(outputs: Any) -> Any:
    return outputs[-1] if isinstance(outputs, Sequence) else outputs


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put back afterwards what a probe might change: random states, and which modules run compiled code.

    Args:
        model: Inside the context all its modules run their ordinary code.
    """
    states = random_state.capture()
    # What nn.Module.compile sets. Setting it aside keeps the compiled code, and nothing is compiled for other shapes.
    compiled = [(m, m._compiled_call_impl) for m in model.modules() if getattr(m, '_compiled_call_impl', None)]
    for module, _ in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, code in compiled:
            module._compiled_call_impl = code
        random_state.restore(states)


def synchronise(device: torch.device) -> None:
    """Wait until a CUDA device has done what was asked of it, so that seconds are counted where they belong."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
