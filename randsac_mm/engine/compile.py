"""Compiled training: one config line, the same keys in the checkpoint, no compiling after the first steps."""

import importlib.util
import os
import shutil
from collections.abc import Callable

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from randsac_mm.registry import register

_SMALL = 50e6  # parameters; below, launching kernels takes a GPU's host longer than the GPU needs to run them
_WARM_UP = 5  # steps in which compiling is expected, counted from the start of a run


def compile_model(model: nn.Module, mode: str | None = None, backend: str | Callable = 'inductor') -> list[str]:
    """Compile a model's training step by ``torch.compile`` when it is first run.

    Compiles the whole loss of a RandSAC model; in other models, and in distributed training, which exchanges gradients
    of some layers while it computes others, each module of a list named ``layers`` (never of the two-stream baseline).
    Segments that vary in size take a few shapes, each compiled when it first occurs, see :meth:`RandSAC.loss`.

    Args:
        model: Any model, wrapped for distributed training or not.
        mode: Mode of ``torch.compile``; ``'reduce-overhead'`` replays CUDA graphs.
        backend: As in ``torch.compile``.

    Returns:
        What is compiled, for a log: ``['loss']`` or names of modules.

    Raises:
        ValueError: If the model has neither a RandSAC loss nor layers.
    """
    from torch._dynamo import config  # loads the compiler, which takes seconds

    config.cache_size_limit = max(config.cache_size_limit, 64)  # shapes of one function; the name in all versions
    options = dict(mode=mode, dynamic=False, backend=backend)
    wrapped = is_model_wrapper(model)
    if wrapped:
        model = model.module
    if hasattr(model, 'compute_loss') and (not wrapped or model.neck is None):
        model.compiled_loss = torch.compile(model.compute_loss, **options)
        return ['loss']
    names = [
        f'{name}.{i}'
        for name, module in model.named_modules()
        if name.rpartition('.')[2] == 'layers' and isinstance(module, nn.ModuleList)
        for i in range(len(module))
    ]
    if not names:
        raise ValueError(f'{type(model).__name__} has no module list named layers: nothing to compile')
    for name in names:
        model.get_submodule(name).compile(**options)
    return names


def compiled_graphs() -> int:
    """Return the number of graphs that this process has compiled so far."""
    from torch._dynamo.utils import counters  # loads the compiler, which takes seconds

    return counters['stats']['unique_graphs']


def _missing_compiler(device: torch.device) -> str | None:
    """Return what ``torch.compile`` lacks for models on ``device``, or None if it can work."""
    if device.type == 'cuda' and importlib.util.find_spec('triton') is None:
        return 'the package triton is missing'
    variable, *names = ('CXX', 'g++', 'clang++') if device.type == 'cpu' else ('CC', 'gcc', 'clang')
    if any(shutil.which(name) for name in (os.environ.get(variable), *names) if name):
        return None
    return f'there is no compiler: install {names[0]}, or set {variable} to one'


@register('HOOKS', everywhere=True)
class CompileHook(Hook):
    """Compile the training step of a run: ``default_hooks = dict(compile=dict(type='CompileHook'))``.

    Images and batches must be of one size (``drop_last=True``): a warning is logged if something is compiled again
    after the first steps. Without a compiler a warning is logged, and nothing is compiled. Models of fewer than 50
    million parameters are replayed as CUDA graphs, unless gradients are accumulated, which the next replay overwrites.

    Args:
        enabled: Whether to compile: ``--cfg-options default_hooks.compile.enabled=False`` runs a config without.
    """

    priority = 'LOW'  # after hooks that change the model

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def before_train(self, runner: Runner) -> None:
        """Mark the model; the compiler runs in the first step."""
        self._replays = self._watches = False
        self._steps = 0
        if not self.enabled:
            return
        parameters = list(runner.model.parameters())
        reason = _missing_compiler(parameters[0].device)
        if reason:
            runner.logger.warning(f'The training step is not compiled: {reason}. The run continues, only slower.')
            return
        accumulates = getattr(runner.optim_wrapper, '_accumulative_counts', 1) > 1
        self._replays = parameters[0].is_cuda and not accumulates and sum(p.numel() for p in parameters) < _SMALL
        compiled = compile_model(runner.model, 'reduce-overhead' if self._replays else None)
        self._watches = True
        what = compiled[0] if len(compiled) == 1 else f'{len(compiled)} modules'
        graphs = ', replayed as CUDA graphs' if self._replays else ''
        runner.logger.info(f'Compiled: {what}{graphs}. The first step takes a minute or two.')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Allow CUDA graphs to overwrite the last step's tensors."""
        if self._replays:
            torch.compiler.cudagraph_mark_step_begin()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        """Warn, once, if something was compiled after the first steps."""
        self._steps += 1
        if self._watches and self._steps == _WARM_UP:
            self._known = compiled_graphs()
        elif self._watches and self._steps > _WARM_UP and compiled_graphs() > self._known:
            self._watches = False
            runner.logger.warning(
                f'Step {runner.iter + 1} was compiled anew, which takes a minute each time: blobs need a few shapes. '
                'Otherwise use batches of one shape (train_dataloader.drop_last=True, a pipeline that ends with a crop '
                'to one size). Shown once.'
            )
