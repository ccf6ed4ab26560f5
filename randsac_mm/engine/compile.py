"""Compiled training: one config line, the same keys in the checkpoint, no compiling after the first steps."""

import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from randsac_mm.registry import register

_SMALL = 50e6  # parameters; below, launching kernels takes a GPU's host longer than the GPU needs to run them
_WARM_UP = 5  # steps in which compiling is expected, counted from the start of a run


def compile_model(
    model: nn.Module,
    modules: str | Sequence[str] = 'auto',
    mode: str | None = None,
    dynamic: bool | None = False,
    backend: str | Callable = 'inductor',
) -> list[str]:
    """Let ``torch.compile`` make the code of a model's training step, when it is first run.

    Parameters, their names and what is saved stay as they are. So does what is no training step: with ``'loss'``,
    features and reconstructions are computed by the ordinary code.

    Args:
        model: Any model, wrapped for distributed training or not.
        modules: What to compile. ``'loss'``: the whole loss of a RandSAC model, from pixels to the scalar.
            ``'layers'``: each transformer layer, wherever the model has a list of that name; all layers of one kind
            share their code. Names of submodules, dotted, as ``('backbone',)``. ``'auto'``: ``'loss'``, or
            ``'layers'`` in distributed training, where gradients of later layers are exchanged while those of earlier
            ones are still computed (not of the two-stream baseline, which runs its layers in another way), and in
            models that are no RandSAC.
        mode: Mode of ``torch.compile``; ``'reduce-overhead'`` replays CUDA graphs.
        dynamic: As in ``torch.compile``; False: one code for each shape, the fastest if shapes never change.
        backend: As in ``torch.compile``.

    Returns:
        What is compiled, for a log: ``['loss']`` or names of modules.

    Raises:
        ValueError: If there is no such module, no layers, or no RandSAC model although ``'loss'`` was asked for.
    """
    options = dict(mode=mode, dynamic=dynamic, backend=backend)
    wrapped = is_model_wrapper(model)
    if wrapped:
        model = model.module
    has_loss = hasattr(model, 'compute_loss')
    if modules == 'auto':
        modules = 'loss' if has_loss and (not wrapped or model.neck is None) else 'layers'
    if modules == 'loss':
        if not has_loss:
            raise ValueError(f"{type(model).__name__} is no RandSAC model: use modules='layers' or names")
        model.compiled_loss = torch.compile(model.compute_loss, **options)
        return ['loss']
    names = _layers(model) if modules == 'layers' else modules
    if isinstance(names, str) or not names:
        raise ValueError(
            f"modules={modules!r} must be 'auto', 'loss', 'layers' (of which {type(model).__name__} has "
            f"{len(_layers(model))}) or a list of names, as ('backbone',)"
        )
    for name in names:
        try:
            module = model.get_submodule(name)
        except AttributeError:
            children = ', '.join(child for child, _ in model.named_children())
            raise ValueError(f'modules names {name!r}, but {type(model).__name__} has {children}') from None
        module.compile(**options)
    return list(names)


def _layers(model: nn.Module) -> list[str]:
    return [
        f'{name}.{i}'
        for name, module in model.named_modules()
        if name.rpartition('.')[2] == 'layers' and isinstance(module, nn.ModuleList)
        for i in range(len(module))
    ]


def missing_compiler(device: torch.device) -> str | None:
    """Tell what ``torch.compile`` lacks on this machine, or None if it can work.

    Args:
        device: Where the model is.
    """
    from torch._dynamo import is_dynamo_supported  # loads the compiler, which takes seconds

    if not is_dynamo_supported():
        return f'torch.compile of PyTorch {torch.__version__} does not support this Python'
    if device.type == 'cuda' and importlib.util.find_spec('triton') is None:
        return 'the package triton is missing'
    compilers = (
        [os.environ.get('CXX'), 'g++', 'clang++'] if device.type == 'cpu' else [os.environ.get('CC'), 'gcc', 'clang']
    )
    if not any(shutil.which(name) for name in compilers if name):
        return (
            'there is no C++ compiler: install g++, or set CXX to one'
            if device.type == 'cpu'
            else 'there is no C compiler: install gcc, or set CC to one'
        )
    return None


def compiled_graphs() -> int:
    """Give the number of graphs that this process has compiled so far."""
    from torch._dynamo.utils import counters

    return counters['stats']['unique_graphs']


@register('HOOKS', everywhere=True)
class CompileHook(Hook):
    """Compile the training step of a run: ``default_hooks = dict(compile=dict(type='CompileHook'))``.

    The first step takes a minute or two. Everything must keep its shape afterwards: images of one size, batches of one
    size (``drop_last=True``). If something is compiled again later all the same, a warning says so once.

    Where compiling is impossible, for want of a compiler, the log says so and the run goes on with the ordinary code.

    Args:
        modules: What to compile, see :func:`compile_model`.
        cuda_graphs: Whether to replay CUDA graphs, which saves the host's work for each kernel. ``'auto'``: on a GPU,
            for models of less than 50 million parameters (ViT-T, ViT-S), where that work is what takes the time, and
            not with accumulated gradients, which live in memory that the next replay overwrites.
        dynamic: See :func:`compile_model`.
        enabled: Whether to compile: False on the command line, ``default_hooks.compile.enabled=False``, is how a config
            that compiles is run without.

    Raises:
        ValueError: If an argument is none of these; before training, if a module does not exist.
    """

    priority = 'LOW'  # after hooks that change the model

    def __init__(
        self,
        modules: str | Sequence[str] = 'auto',
        cuda_graphs: bool | str = 'auto',
        dynamic: bool | None = False,
        enabled: bool = True,
    ) -> None:
        if cuda_graphs not in (True, False, 'auto'):
            raise ValueError(f"cuda_graphs={cuda_graphs!r} must be True, False or 'auto'")
        self.modules = modules
        self.cuda_graphs = cuda_graphs
        self.dynamic = dynamic
        self.enabled = enabled
        self._steps = 0
        self._known: int | None = None
        self._replays = self._compiled = False

    def before_train(self, runner: Runner) -> None:
        """Mark the model; the compiler runs in the first step."""
        self._steps, self._known, self._replays, self._compiled = 0, None, False, False
        if not self.enabled:
            return
        reason = missing_compiler(next(runner.model.parameters()).device)
        if reason:
            runner.logger.warning(f'The training step is not compiled: {reason}. The run goes on, only slower.')
            return
        self._replays = self._use_cuda_graphs(runner)
        compiled = compile_model(runner.model, self.modules, 'reduce-overhead' if self._replays else None, self.dynamic)
        self._compiled = True
        what = compiled[0] if len(compiled) == 1 else f'{len(compiled)} modules'
        graphs = ', replayed as CUDA graphs' if self._replays else ''
        runner.logger.info(f'Compiled: {what}{graphs}. The first step takes a minute or two.')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Tell CUDA graphs that the last step's tensors may be overwritten."""
        if self._replays:
            torch.compiler.cudagraph_mark_step_begin()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        """Warn, once, if something was compiled after the first steps."""
        self._steps += 1
        if not self._compiled or self._steps < _WARM_UP:
            return
        graphs = compiled_graphs()
        if self._known is not None and graphs > self._known:
            runner.logger.warning(
                f'Step {runner.iter + 1} was compiled anew, which takes a minute each time. Give all batches one '
                'shape (train_dataloader.drop_last=True, a pipeline that ends with a crop to one size), or allow '
                'changing shapes with CompileHook(dynamic=True). This is said once.'
            )
            graphs = float('inf')
        self._known = max(graphs, self._known or 0)

    def _use_cuda_graphs(self, runner: Runner) -> bool:
        parameters = list(runner.model.parameters())
        on_gpu = bool(parameters) and parameters[0].is_cuda
        accumulates = getattr(runner.optim_wrapper, '_accumulative_counts', 1) > 1
        if self.cuda_graphs == 'auto':
            return on_gpu and not accumulates and sum(p.numel() for p in parameters) < _SMALL
        if self.cuda_graphs and accumulates:
            raise ValueError(
                'cuda_graphs=True cannot be used with accumulative_counts > 1: the next replay overwrites the '
                "gradients. Set cuda_graphs='auto' or False"
            )
        return bool(self.cuda_graphs) and on_gpu
