"""Choose the fastest kernels for a run, before it starts."""

from collections.abc import Callable
from functools import partial

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from randsac_mm.engine.compile import CompileHook, missing_compiler
from randsac_mm.engine.memory import keep_freed_memory
from randsac_mm.kernels import (
    AttentionShape,
    LinearShape,
    attention_backend,
    choose_attention,
    choose_linear,
    choose_together,
    linear_backend,
    use_attention,
    use_linear,
)
from randsac_mm.kernels.choice import AUTO, Choice
from randsac_mm.models.backbone import RandSACViT
from randsac_mm.models.layers import CrossAttention, SelfAttention
from randsac_mm.registry import register


@register('HOOKS', everywhere=True)
class KernelHook(Hook):
    """Measure attention and linear back-ends on the model's own shapes and use the fastest until training ends.

    ``default_hooks = dict(kernels=dict(type='KernelHook'))``. It takes about a second for each, once: the result is
    kept in the user's cache folder, so that later runs, and a resumed one, compute with the same kernels. The log says
    what was chosen and why. All processes of a distributed run take the first one's choice.

    Args:
        attention: ``'auto'`` or a back-end, see :func:`randsac_mm.kernels.use_attention`. In deterministic runs
            (``randomness.deterministic=True``) ``'auto'`` is ``'plain'``.
        linear: ``'auto'`` or a back-end, see :func:`randsac_mm.kernels.use_linear`.
        keep_memory: Whether a run on a CPU keeps freed memory, see
            :func:`randsac_mm.engine.memory.keep_freed_memory`.

    Raises:
        ValueError: Before training, if a back-end does not exist or does not work here.
    """

    priority = 'NORMAL'  # before CompileHook: compiled code holds the kernels that are in force

    def __init__(self, attention: str = AUTO, linear: str = AUTO, keep_memory: bool = True) -> None:
        self.attention = attention
        self.linear = linear
        self.keep_memory = keep_memory
        self._previous: tuple[str, str] | None = None

    def before_train(self, runner: Runner) -> None:
        """Choose and say so."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        backbone = getattr(model, 'backbone', None)
        if not isinstance(backbone, RandSACViT):
            return
        device, dtype = next(model.parameters()).device, _compute_dtype(runner)
        if device.type == 'cpu' and self.keep_memory and keep_freed_memory():
            runner.logger.info('Memory that is freed stays with this process, to be used again in the next step.')
        images = getattr(runner.train_dataloader, 'batch_size', None) or 1
        compiled = any(isinstance(hook, CompileHook) and hook.enabled for hook in runner.hooks)
        compiled = compiled and missing_compiler(device) is None
        deterministic = torch.are_deterministic_algorithms_enabled()
        attention = 'plain' if deterministic and self.attention == AUTO else self.attention
        choices: list[Callable[[], Choice]] = []
        if hasattr(model, 'compute_loss'):
            shapes = attention_shapes(model, images)
            choices.append(partial(choose_attention, shapes, device, dtype, attention, compiled))
        choices.append(partial(choose_linear, linear_shapes(model, images), device, dtype, self.linear))
        self._previous = (attention_backend(), linear_backend())
        for choose in choices:
            choice = choose_together(choose)
            (use_attention if choice.kind == 'attention' else use_linear)(choice.name)
            runner.logger.info(f'Kernels: {choice.report()}')

    def after_train(self, runner: Runner) -> None:
        """Put back what was in force before: the choice was for this run's shapes."""
        if self._previous is not None:
            attention, linear = self._previous
            use_attention(attention)
            use_linear(linear)
            self._previous = None


def tokens_seen(model: nn.Module) -> tuple[int, bool]:
    """Give the number of tokens that a model's layers see, and whether one mask serves all images.

    Args:
        model: Any model with a :class:`RandSACViT`.
    """
    height, width = model.backbone.patch_resolution
    serialization = getattr(model.data_preprocessor, 'serialization', None)
    if serialization is None:
        return height * width, True
    size = serialization.tokens_per_segment((height, width))
    return height * width - (size or 1), size is not None


def attention_shapes(model: nn.Module, images: int) -> list[AttentionShape]:
    """List the kinds of attention in a RandSAC model that is trained on batches of so many images."""
    tokens, shared = tokens_seen(model)
    found = [
        AttentionShape(images, module.num_heads, tokens, tokens, module.proj.out_features // module.num_heads, shared)
        for module in model.modules()
        if isinstance(module, (SelfAttention, CrossAttention))
    ]
    return list(dict.fromkeys(found))


def linear_shapes(model: nn.Module, images: int) -> list[LinearShape]:
    """List the kinds of linear layers in the encoder and decoder of a model, for batches of so many images."""
    rows = images * tokens_seen(model)[0]
    parts = [model.backbone, getattr(model, 'neck', None)] if hasattr(model, 'compute_loss') else [model.backbone]
    found = [
        LinearShape(rows, module.in_features, module.out_features)
        for part in parts
        if part is not None
        for module in part.modules()
        if isinstance(module, nn.Linear)
    ]
    return list(dict.fromkeys(found))


def _compute_dtype(runner: Runner) -> torch.dtype:
    """Tell in which type the model's linear layers compute."""
    wrapper = runner.optim_wrapper
    if hasattr(wrapper, 'loss_scaler'):  # mmengine's AmpOptimWrapper
        return getattr(wrapper, 'cast_dtype', None) or torch.float16
    return getattr(wrapper, 'dtype', torch.float32)
