"""Compiled training: one config line, the same keys in the checkpoint, no compiling after the first steps.

Whether compiling pays is decided by :data:`_COSTS`, a table of what was measured, and by the config; nothing is timed.
"""

import importlib.util
import math
import os
import shutil
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from randsac_mm.engine.optim import uses_mixed_precision
from randsac_mm.models.layers import run_layer
from randsac_mm.registry import register

_SMALL = 50e6  # parameters; below, launching kernels takes a GPU's host longer than the GPU needs to run them
_WARM_UP = 5  # steps in which compiling is expected, counted from the start of a run
_LAUNCH = 6e-3  # seconds in which a GPU's host starts the kernels of a step; with CUDA graphs none


class _Cost(NamedTuple):
    """What compiling takes and saves on a kind of device, in seconds; on a CPU with one thread."""

    start: float  # to load the compiler and to try the one for C++
    layer: float  # to compile a layer, forward and backward
    float32: float  # saved for every 1e12 operations of a step
    bfloat16: float


_COSTS = {
    # docs/results/first_step_cpu.md; savings: step_cpu.md and step_cpu_bf16.md, means of the models there.
    'avx512': _Cost(start=35.0, layer=5.0, float32=0.2, bfloat16=1.0),
    # Without AVX-512 compiled steps were not faster than eager ones beyond the noise, those of small models slower, see
    # step_cpu_avx2.md: PyTorch's GELU, which is oneDNN's, is then faster than the compiler's.
    'cpu': _Cost(start=35.0, layer=5.0, float32=0.0, bfloat16=0.0),
    # ViT-B, K = 9, 256 images on an H200: 45 s for 18 layers; 116 ms of kernels became 86 ms, for 29e12 operations.
    # Taken for float32, too: what is saved are the passes through memory between matrix products, which both have.
    'cuda': _Cost(start=0.0, layer=2.5, float32=1e-3, bfloat16=1e-3),
}
# Devices on which each kind of layer is compiled once. On a CPU the first step is then three times as early, and later
# ones take as long (docs/results/first_step_cpu.md, step_layers_cpu.md). On a GPU benchmarks/gpu.sh compares both.
_IN_UNITS = ('cpu',)


def estimate_compiling(
    device: str, bfloat16: bool, layers: int, parameters: int, tokens: int, threads: int = 1, replays: bool = False
) -> tuple[float, float]:
    """Estimate what compiling costs and saves, to compare: it pays if it costs less than it saves in all steps.

    Args:
        device: Type of the device; ``'avx512'`` for a CPU with AVX-512.
        bfloat16: Whether matrix products are computed in bfloat16, or else in float32.
        layers: Number of the layers that are compiled; of those that share one code one.
        parameters: Their number of parameters.
        tokens: Tokens of a batch, without those of the last segment if the caller knows.
        threads: Threads of this process.
        replays: Whether the steps are replayed as CUDA graphs.

    Returns:
        Seconds to compile, and seconds that a compiled step saves.
    """
    cost = _COSTS.get(device, _COSTS['cuda'])
    threads = threads if device in ('cpu', 'avx512') else 1
    operations = 6 * parameters * tokens  # a multiply-add is two, and the backward pass takes twice the forward pass
    saved = (cost.bfloat16 if bfloat16 else cost.float32) * operations / 1e12 / threads
    return (cost.start + cost.layer * layers) / min(threads, 2), max(saved, _LAUNCH if replays else 0)


def compile_model(
    model: nn.Module, mode: str | None = None, backend: str | Callable = 'inductor', whole: bool | None = None
) -> list[str]:
    """Compile a model's training step by ``torch.compile`` when it is first run.

    Compiles the modules of each list named ``layers``, of which those that are alike share one compiled code; or the
    whole loss of a RandSAC model. Nothing of such a model but the training step runs compiled code.
    Segments that vary in size take a few shapes, each compiled when it first occurs, see :meth:`RandSAC.loss`.

    Args:
        model: Any model, wrapped for distributed training or not.
        mode: Mode of ``torch.compile``; ``'reduce-overhead'`` replays CUDA graphs.
        backend: As in ``torch.compile``.
        whole: Whether to compile the whole loss. Default: on a GPU, except in distributed training, which exchanges
            gradients of some layers while it computes others; and of the two-stream baseline, whose layers run on two
            tensors at once.

    Returns:
        What is compiled, for a log: ``['loss']`` or names of modules.

    Raises:
        ValueError: If the model has neither a RandSAC loss nor layers.
    """
    from torch._dynamo import config  # loads the compiler, which takes seconds

    config.cache_size_limit = max(config.cache_size_limit, 64)  # shapes of one function; the name in all versions
    options = dict(mode=mode, dynamic=False, backend=backend)
    whole = _is_whole(model) if whole is None else whole
    model, layers = _unwrap(model), _find_layers(model)
    if whole:
        model.compiled_loss = torch.compile(model.compute_loss, **options)
        return ['loss']
    if not layers:
        raise ValueError(f'{type(model).__name__} has no module list named layers: nothing to compile')
    if hasattr(model, 'compute_loss'):
        model.run_layer = torch.compile(run_layer, **options)
    else:
        for layer in layers.values():
            layer.compile(**options)
    return list(layers)


def _unwrap(model: nn.Module) -> Any:
    return model.module if is_model_wrapper(model) else model


def _is_whole(model: nn.Module) -> bool:
    """Return whether the whole loss of a model is compiled, by the rule."""
    inner = _unwrap(model)
    if not hasattr(inner, 'compute_loss'):
        return False
    return inner.neck is None or (inner is model and next(model.parameters()).device.type not in _IN_UNITS)


def _find_layers(model: nn.Module) -> dict[str, nn.Module]:
    modules = _unwrap(model).named_modules()
    lists = {name: module for name, module in modules if name.rpartition('.')[2] == 'layers'}
    found = {name: module for name, module in lists.items() if isinstance(module, nn.ModuleList)}
    return {f'{name}.{i}': layer for name, module in found.items() for i, layer in enumerate(module)}


def _count_kinds(layers: Iterable[nn.Module]) -> int:
    """Return the number of kinds of layers: those of one kind have the same class and parameters of the same shapes."""
    return len({(type(layer), *((name, p.shape) for name, p in layer.named_parameters())) for layer in layers})


def _estimate(runner: Runner, replays: bool) -> tuple[float, float]:
    """Estimate what compiling costs and saves a run, see :func:`estimate_compiling`."""
    model = runner.model
    layers, whole = list(_find_layers(model).values()), _is_whole(model)
    grids = [module.patch_resolution for module in model.modules() if hasattr(module, 'patch_resolution')]
    images = getattr(runner.train_dataloader.batch_sampler, 'batch_size', 1)
    device = next(model.parameters()).device
    wide = device.type == 'cpu' and torch.backends.cpu.get_cpu_capability() == 'AVX512'
    return estimate_compiling(
        'avx512' if wide else device.type,
        uses_mixed_precision(runner.optim_wrapper, device),
        len(layers) if whole else _count_kinds(layers),
        sum(p.numel() for part in ([model] if whole else layers) for p in part.parameters()),
        images * (math.prod(grids[0]) if grids else 196),  # 224 pixels in patches of 16
        torch.get_num_threads(),
        replays,
    )


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
        enabled: Whether to compile: ``--cfg-options default_hooks.compile.enabled=False`` runs a config without. None:
            where it pays within the run, a rule of device, precision, sizes of model and batch, and number of steps,
            see :func:`estimate_compiling`; a run that :class:`ResumableCheckpointHook` resumes goes on as it began.
    """

    priority = 'LOW'  # after hooks that change the model

    def __init__(self, enabled: bool | None = None) -> None:
        self.enabled = enabled

    def before_train(self, runner: Runner) -> None:
        """Mark the model, if compiling pays; the compiler runs in the first step."""
        self._replays = self._watches = False
        self._steps = 0
        if self.enabled is False:
            return
        parameters = list(runner.model.parameters())
        accumulates = getattr(runner.optim_wrapper, '_accumulative_counts', 1) > 1
        replays = parameters[0].is_cuda and not accumulates and sum(p.numel() for p in parameters) < _SMALL
        steps = runner.max_iters - runner.iter
        seconds, saved = _estimate(runner, replays)
        if self.enabled is None and seconds >= saved * steps:
            self.enabled = False
            text = f'Not compiled: {steps:,} steps would save about {saved * steps:,.0f} s'
            runner.logger.info(f'{text}, and compiling takes about {seconds:,.0f} s')
            return
        reason = _missing_compiler(parameters[0].device)
        if reason:
            self.enabled = False
            runner.logger.warning(f'The training step is not compiled: {reason}. The run continues, only slower.')
            return
        self.enabled, self._replays, self._watches = True, replays, True
        compiled = compile_model(runner.model, 'reduce-overhead' if replays else None)
        what = compiled[0] if len(compiled) == 1 else f'{len(compiled)} modules'
        graphs = ', replayed as CUDA graphs' if replays else ''
        saves = f'{steps:,} steps save about {saved * steps:,.0f} s'
        runner.logger.info(f'Compiled: {what}{graphs}; it takes about {seconds:,.0f} s in the first step, and {saves}')

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
