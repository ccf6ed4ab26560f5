"""Measure a few steps of a run: seconds, with their data, and memory."""

import copy
import gc
import resource
import tempfile
import time
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from randsac_mm.engine import launch
from randsac_mm.engine.resources import ending_workers

_STEPS, _SECONDS = 3, 3.0  # to be timed at least, behind the first step
_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'sample_seeds', 'param_scheduler')


class Measurement(NamedTuple):
    """What a few steps took."""

    step: float  # seconds
    start: float  # seconds until the end of the first step
    memory: int  # most bytes of the GPU, or else of the process
    steps: int  # of the whole run
    epochs: float  # of the whole run


class NoMemoryError(Exception):
    """A step needs more memory than there is."""


class _EnoughError(Exception):
    pass


class _Stopwatch(Hook):
    """End the training when enough steps are timed."""

    priority = 'LOWEST'

    def __init__(self, limit: float) -> None:
        self.limit, self.began = limit, time.perf_counter()
        self.marks: list[float] = []  # ends of steps

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.marks.append(time.perf_counter())
        lasted = self.marks[-1] - self.marks[0]
        enough = len(self.marks) > _STEPS and lasted >= _SECONDS
        if enough or lasted > self.limit or self.marks[0] - self.began > 2 * self.limit:
            raise _EnoughError


def measure(cfg: Config, limit: float) -> Measurement:
    """Run a few steps of a config in a temporary work directory, without probes, validation and compiling.

    Args:
        cfg: The config; it is not changed.
        limit: Seconds, from the end of the first step, after which no further one is begun; nor is a second one if the
            first took twice as long.

    Raises:
        NoMemoryError: If the memory is too small for a step.
    """
    stopwatch, cfg = _Stopwatch(limit), copy.deepcopy(cfg)
    with tempfile.TemporaryDirectory() as folder:
        cfg.update(work_dir=folder, experiment_name=f'measurement_{time.time_ns()}', log_level='ERROR')
        if cfg.get('visualizer'):
            cfg.visualizer.name = cfg.experiment_name  # mmengine keeps one for each name, with its folder
        cfg.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
        cfg.update(test_cfg=None, test_dataloader=None, test_evaluator=None)
        hooks = {name: hook for name, hook in (cfg.get('default_hooks') or {}).items() if name in _HOOKS}
        cfg.default_hooks = {**hooks, 'logger': None, 'checkpoint': None}
        others = cfg.get('custom_hooks') or ()
        cfg.custom_hooks = [
            h for h in others if str(h.type).rpartition('.')[2] not in ('OnlineProbeHook', 'TimeBudgetHook')
        ]
        try:
            runner = launch.build_runner(cfg)
            runner.register_hook(stopwatch)
            with ending_workers(runner):
                runner.train()
        except _EnoughError:
            pass
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise NoMemoryError from None  # without the frames, which keep the tensors
        steps, images = runner.max_iters, len(runner.train_dataloader.dataset)
        del runner
        gc.collect()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.cuda.is_available():
        memory = torch.cuda.max_memory_allocated()
        torch.cuda.empty_cache()
    marks = stopwatch.marks
    start = marks[0] - stopwatch.began
    step = (marks[-1] - marks[0]) / (len(marks) - 1) if len(marks) > 1 else start
    return Measurement(step, start, memory, steps, steps * cfg.train_dataloader.batch_size / images)


def _is_out_of_memory(error: Exception) -> bool:
    kinds = (MemoryError, torch.cuda.OutOfMemoryError)
    return isinstance(error, kinds) or any(text in str(error) for text in ('not enough memory', 'DefaultCPUAllocator'))
