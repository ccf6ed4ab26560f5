"""From the command line to the runner: ``tools/train.py`` and ``tools/test.py``."""

import gc
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from randsac_mm.engine.tool import resume_command

import torch
from mmengine.config import Config
from mmengine.dist import get_rank, is_main_process
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS, init_default_scope
from mmengine.runner import FlexibleRunner, Runner

from randsac_mm.datasets import use_strict_readers
from randsac_mm.datasets.check import check_config, raise_errors
from randsac_mm.datasets.coco import prepare_coco
from randsac_mm.datasets.data_report import format_report, name_some
from randsac_mm.engine.config_check import KNOWN_KEYS, check_custom_keys, check_keys, closest, find_dicts
from randsac_mm.engine.distributed import connect, on_first_rank, prepare_cpu_processes, replace_sync_bn
from randsac_mm.engine.non_finite import NonFiniteError
from randsac_mm.engine.options import parse_options
from randsac_mm.engine.origin import write_origin
from randsac_mm.engine.resources import ending_workers, fit_workers, keep_freed_memory
from randsac_mm.engine.safe_loading import check_folder, use_safe_reader
from randsac_mm.engine.schedule import drop_fixed_schedules
from randsac_mm.engine.signals import restore_handlers
from randsac_mm.engine.work_dir import find_checkpoint, use_resume
from randsac_mm.locations import find_root
from randsac_mm.transfer.model_loading import load_model

_ATTEMPTS = 3  # of a training whose steps are not finite
# How mmengine's long lists begin.
_ONLY_IN_FILE = ('\n-----', 'Config:\n', 'Hooks will be executed', 'paramwise_options')


class _ShortOnTerminal:
    """Runner that writes environment, config, hooks and parameter groups to the log file only."""

    def _log_env(self, *args: Any) -> None:
        for handler in self.logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(lambda record: not record.getMessage().startswith(_ONLY_IN_FILE))
        super()._log_env(*args)

    def dump_config(self) -> None:
        """Write the complete config to the work directory, but not over the file that it was read from."""
        source = self.cfg.filename
        if source is None or Path(source).resolve() != Path(self.work_dir, Path(source).name).resolve():
            super().dump_config()


def load_config(
    path: str, options: Mapping[str, Any] | Sequence[str] | None, work_dir: str | None, launcher: str
) -> Config:
    """Read a config and apply the command line to it.

    Args:
        path: The config file. ``configs/...`` also finds ours from any folder.
        options: ``--cfg-options``: texts ``KEY=VALUE``, or dotted keys with their values.
        work_dir: ``--work-dir``; without it the config's, or else ``./work_dirs/<name of the config>``.
        launcher: ``--launcher``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no config, a key of the file or of an option is unknown, or an option does not fit.
    """
    use_safe_reader()
    if not Path(path).is_file():
        if not (find_root() / path).is_file():
            raise FileNotFoundError(f'there is no config {path}')
        path = str(find_root() / path)
    if Path(path).suffix not in ('.py', '.json', '.yml', '.yaml'):
        raise ValueError(f'{path}: the name of a config ends in .py, .json, .yml or .yaml')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # whatever the Python in it raises
        raise ValueError(f'{path}: {type(error).__name__}: {error}') from error
    if cfg.get('model') is None:
        raise ValueError(f'{path} has no model; use the config of a run, not one of the parts in _base_')
    options = dict(options or {}) if isinstance(options or {}, Mapping) else parse_options(cfg, options)
    _check_options(cfg, options)
    try:
        cfg.merge_from_dict(options)
    except (AssertionError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f'--cfg-options do not fit {path}: {error}') from error
    cfg.launcher = launcher
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(path).stem))
    check_keys(cfg)
    fit_workers(cfg, options)
    use_strict_readers(cfg)
    return cfg


def _check_options(cfg: Config, options: Mapping[str, Any]) -> None:
    for option in options:
        first = option.split('.')[0]
        if option == 'launcher':
            raise ValueError('--cfg-options launcher: use --launcher, which replaces it')
        if first in KNOWN_KEYS or first == 'auto_num_workers':
            continue
        nested = [f'{path}.{first}' for path, part, _ in find_dicts(cfg.to_dict(), '', '') if path and first in part]
        if first in cfg:
            raise ValueError(
                f'--cfg-options {option}: {first} is a variable of the file, which has been read already: set the keys '
                f'that use it, such as {(nested or ["train_dataloader.dataset.data_root"])[0]}, or change a copy of it'
            )
        if nested:
            raise ValueError(f'--cfg-options {option}: the config has no {first}; did you mean {" or ".join(nested)}?')
        known = {*KNOWN_KEYS, *cfg}
        raise ValueError(f'--cfg-options {option}: the config has no {first}; {closest(first, known, set(cfg))}')


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


def check_data(cfg: Config, *parts: str, check: bool = True) -> str:
    """Check the data sets of a run, see :func:`~randsac_mm.datasets.check.check_config`; return a text for the log.

    The first process reads the files, and the others what it remembers. Without ``check`` (``--no-check``) only
    annotation files in COCO's format are, whose labels would depend on the order of their categories.

    Raises:
        ValueError: If there are errors, a line each; in other processes RuntimeError.
    """
    if cfg.get('strategy') is None:
        connect(cfg)
    init_default_scope(cfg.get('default_scope') or 'mmengine')

    def work() -> str:
        reports = check_config(cfg, parts) if check else prepare_coco(cfg, parts)
        raise_errors(reports)
        return '\n'.join(format_report(report, brief=True) for report in reports if report.name != 'model')

    text = on_first_rank(work)
    return text if get_rank() == 0 else work()


def build_runner(cfg: Config) -> Runner | FlexibleRunner:
    """Build the runner of a config; ``FlexibleRunner`` if it has a strategy (FSDP, DeepSpeed)."""
    if cfg.get('load_from') and Path(cfg.load_from).is_dir():
        check_folder(cfg.load_from)
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
    name = cfg.get('runner_type', 'Runner')
    kind = RUNNERS.get(name)
    runner = type(name, (_ShortOnTerminal, kind), {}).from_cfg(cfg)
    check_custom_keys(runner)
    drop_fixed_schedules(runner)
    _count_accumulation(runner)
    if is_main_process():
        write_origin(runner.log_dir)
    if note:
        runner.logger.warning(note)
    return runner


def _count_accumulation(runner: Any) -> None:
    """Make ``auto_scale_lr``, which counts images and processes, count accumulated steps as well."""
    wrapper = runner.cfg.get('optim_wrapper') or {}
    counts = {part.get('accumulative_counts', 1) for part in (wrapper, *wrapper.values()) if isinstance(part, dict)}
    scale = runner.strategy._auto_scale_lr if hasattr(runner, 'strategy') else runner.auto_scale_lr
    if scale and scale.get('enable'):
        scale['base_batch_size'] /= max(counts)


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
    meta = load_model(runner.model.module if is_model_wrapper(runner.model) else runner.model, checkpoint)
    trained, tested = (
        list(about.get('classes') or ())
        for about in (meta.get('dataset_meta') or {}, getattr(runner.test_dataloader.dataset, 'metainfo', {}))
    )
    if trained and tested and trained != tested:
        odd = name_some(sorted(set(trained) ^ set(tested))) or 'another order'
        raise ValueError(f"{checkpoint}: the model was trained on other classes than test_dataloader's: {odd}")
    return runner


def train(cfg: Config, begin: Callable[[Any], None] = lambda runner: None) -> Runner | FlexibleRunner:
    """Build the runner of a config and train.

    After several steps in a row that were not finite, see :class:`~randsac_mm.engine.non_finite.SkipNonFiniteHook`, it
    goes back to the last checkpoint and continues with other random numbers, twice at most.

    Args:
        cfg: The config; after a return to a checkpoint it is changed.
        begin: Called with the runner before each start.

    Raises:
        NonFiniteError: If steps were not finite again, or there is no checkpoint.
        Exception: Whatever ends the run; once it has begun, with ``resume``, the command that continues it.
        SystemExit: After a signal, see :class:`~randsac_mm.engine.signals.StopOnSignalHook`.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        runner = build_runner(cfg)
        begin(runner)
        try:
            with ending_workers(runner):
                runner.train()
            return runner
        except NonFiniteError as error:
            hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
            resumable = str(hook.get('type')).endswith('ResumableCheckpointHook')
            if attempt == _ATTEMPTS or not resumable or not use_resume(cfg, 'auto'):
                raise
            hook.attempt = attempt
            text = f'{error.args[0].partition(".")[0]}. Back to {cfg.load_from}, with other random numbers'
            runner.logger.warning(f'{text} (attempt {attempt + 1} of {_ATTEMPTS})')
            error.__traceback__ = None  # frees the model
            del runner
            gc.collect()
            time.sleep(1)  # mmengine names runs by the second
        except Exception as error:
            if runner.iter and find_checkpoint(runner.work_dir):  # it had begun
                error.resume = resume_command(cfg)
            raise
        finally:
            restore_handlers()
    raise AssertionError('unreachable')
