"""From the command line to the runner: ``tools/train.py`` and ``tools/test.py``."""

import re
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner, Runner

from randsac_mm.datasets import use_strict_readers
from randsac_mm.engine.distributed import prepare_cpu_processes, replace_sync_bn
from randsac_mm.engine.origin import write_origin
from randsac_mm.engine.resources import fit_workers, keep_freed_memory
from randsac_mm.transfer.model_loading import load_model

# Keys that no runner takes as an argument but that mmengine or OpenMMLab's libraries look up in a config.
_OTHER_KEYS = {
    'activation_checkpointing', 'auto_scale_lr', 'compile', 'custom_imports', 'efficient_conv_bn_eval',
    'find_unused_parameters', 'launcher', 'load_from', 'model_wrapper_cfg', 'resume', 'runner_type', 'strategy',
    'sync_bn', 'tta_model', 'tta_pipeline', 'work_dir',
}  # fmt: skip


def load_config(path: str, options: dict[str, Any] | None, work_dir: str | None, launcher: str) -> Config:
    """Read a config and apply the command line to it.

    Args:
        path: The config file.
        options: ``--cfg-options``, parsed: dotted keys and values.
        work_dir: ``--work-dir``; without it the config's, or else ``./work_dirs/<name of the config>``.
        launcher: ``--launcher``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no config, or neither the config nor mmengine knows the key of an option.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'there is no config {path}')
    if Path(path).suffix not in ('.py', '.json', '.yml', '.yaml'):
        raise ValueError(f'{path}: the name of a config ends in .py, .json, .yml or .yaml')
    cfg = Config.fromfile(path)
    if cfg.get('model') is None:
        raise ValueError(f'{path} has no model; use the config of a run, not one of the parts in _base_')
    _check_options(cfg, options or {})
    try:
        cfg.merge_from_dict(options or {})
    except (AssertionError, KeyError, TypeError) as error:
        raise ValueError(f'--cfg-options do not fit {path}: {error}') from error
    fit_workers(cfg, options or {})
    cfg.launcher = launcher
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(path).stem))
    use_strict_readers(cfg)
    return cfg


def _check_options(cfg: Config, options: dict[str, Any]) -> None:
    known = set(cfg) | set(signature(Runner).parameters) | set(signature(FlexibleRunner).parameters) | _OTHER_KEYS
    for option in options:
        first = option.split('.')[0]
        if first not in known:
            close = get_close_matches(first, sorted(known), n=1)
            hint = f'did you mean {close[0]}?' if close else f'it has {", ".join(sorted(cfg))}'
            raise ValueError(f'--cfg-options {option}: the config has no {first}; {hint}')


def use_amp(cfg: Config) -> None:
    """Make the optimiser wrapper compute in bfloat16 (``--amp``), of a detector only the backbone.

    Raises:
        ValueError: If the config's wrapper is neither plain nor one of mixed precision.
    """
    wrapper = cfg.get('optim_wrapper') or {}
    name = wrapper.get('type', 'OptimWrapper' if 'optimizer' in wrapper else 'none or several').rpartition('.')[2]
    if name == 'OptimWrapper':
        wrapper.update(type='AutocastOptimWrapper')
        if cfg.get('default_scope') == 'mmdet':  # some of mmcv's operations between the heads know no bfloat16
            wrapper.update(modules=['backbone'])
    elif name not in ('AutocastOptimWrapper', 'AmpOptimWrapper'):
        raise ValueError(f'--amp replaces OptimWrapper, but optim_wrapper is {name}; use its own mixed precision')


def use_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate by the actual total batch size over the config's (``--auto-scale-lr``).

    Raises:
        ValueError: If the config does not state the batch size of its learning rate.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise ValueError('--auto-scale-lr: the config lacks auto_scale_lr.base_batch_size, the batch of its lr')
    cfg.auto_scale_lr.enable = True


def use_resume(cfg: Config, resume: str) -> bool:
    """Set ``resume`` and ``load_from`` of a config to continue a run (``--resume``).

    ``resume`` is ``'latest'``: the last checkpoint in ``work_dir``; ``'auto'``: the same, or a new run if there is
    none; otherwise a checkpoint or a work directory.

    Returns:
        Whether a checkpoint was found; False only for ``'auto'``.

    Raises:
        FileNotFoundError: If there is no checkpoint to continue from.
    """
    path = Path(cfg.work_dir if resume in ('latest', 'auto') else resume)
    # FSDP and DeepSpeed checkpoints are folders as well.
    found = path if path.suffix == '.pth' and path.exists() else find_checkpoint(path)
    if found is None and resume != 'auto':
        raise FileNotFoundError(f'--resume: there is no checkpoint in {path.resolve()}; --resume auto starts a new run')
    cfg.resume = found is not None
    if found is not None:
        cfg.load_from = str(found)
    return cfg.resume


def find_checkpoint(work_dir: str | Path) -> Path | None:
    """Return the checkpoint that ``last_checkpoint`` names, also in a moved folder, else that of the highest number."""
    work_dir = Path(work_dir)
    pointer = work_dir / 'last_checkpoint'
    if pointer.is_file():
        saved = Path(pointer.read_text().strip())
        for candidate in (work_dir / saved.name, saved):
            if saved.name and candidate.exists():
                return candidate
    pattern = re.compile(r'(?:epoch|iter)_(\d+)\.pth')
    numbered = [(int(match[1]), path) for path in work_dir.glob('*.pth') if (match := pattern.fullmatch(path.name))]
    return max(numbered)[1] if numbered else None


def build_runner(cfg: Config) -> Runner | FlexibleRunner:
    """Build the runner of a config; ``FlexibleRunner`` if it has a strategy (FSDP, DeepSpeed)."""
    if cfg.get('strategy') is not None:
        cfg.setdefault('runner_type', 'FlexibleRunner')
        cfg.setdefault('env_cfg', {})  # it fails on None
    if not torch.cuda.is_available():
        keep_freed_memory()
        for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            if cfg.get(name):
                cfg[name].pop('pin_memory', None)  # nothing to pin for; torch would warn in every epoch
    prepare_cpu_processes(cfg)
    note = replace_sync_bn(cfg)
    runner = RUNNERS.build(cfg)
    if is_main_process():
        write_origin(runner.log_dir)
    if note:
        runner.logger.warning(note)
    return runner


def build_test_runner(cfg: Config, checkpoint: str) -> Runner:
    """Build the runner of a test, without strategy, and with every weight of its model from ``checkpoint``.

    Raises:
        ValueError: If the config has no test set, or the checkpoint cannot be read or does not fit the model.
        FileNotFoundError: If there is no such checkpoint.
    """
    if cfg.get('test_dataloader') is None:
        raise ValueError(
            'the config has no test_dataloader, as usual in pre-training: use tools/visualization/reconstruct.py, or '
            'test a config that loads the checkpoint into a backbone'
        )
    if not Path(checkpoint).exists():
        raise FileNotFoundError(f'there is no checkpoint {checkpoint}')
    cfg.pop('strategy', None)
    cfg.pop('runner_type', None)
    # The runner loads it, too, for hooks such as EMAHook, but only warns about missing keys.
    cfg.load_from, cfg.resume = checkpoint, False
    runner = build_runner(cfg)
    load_model(runner.model.module if is_model_wrapper(runner.model) else runner.model, checkpoint)
    return runner
