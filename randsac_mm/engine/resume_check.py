"""Whether a checkpoint fits the run that is to continue from it: tensors, files, schedules, config, kernels."""

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from torch import Tensor

from randsac_mm.datasets.data_report import name_some
from randsac_mm.engine.compile import CompileHook
from randsac_mm.engine.config_check import KNOWN_KEYS
from randsac_mm.engine.distributed import on_first_rank
from randsac_mm.engine.optim import uses_mixed_precision
from randsac_mm.engine.schedule import add_warmup, check_optimizer, check_schedules, use_new_schedule
from randsac_mm.engine.train_files import describe_change
from randsac_mm.engine.work_dir import check_parts
from randsac_mm.kernels import choose_backend
from randsac_mm.transfer.backbone_keys import collapse
from randsac_mm.transfer.model_loading import load_or_restore
from randsac_mm.transfer.stored_config import stored_config

# Keys of a config that change the model or the numbers of its training, and those that belong to a schedule.
_SERIOUS = re.compile(
    r'model|data_preprocessor|optim_wrapper|param_scheduler|train_cfg\.(type|by_epoch|max_)|randomness|custom_hooks\.train'
    r'|train_dataloader\.(dataset|batch_size|sampler|batch_sampler|collate_fn|drop_last)'
)
_SCHEDULE = re.compile(r'optim_wrapper\.(optimizer|paramwise_cfg|constructor)|param_scheduler|train_cfg\.max_')
# But not weights to begin with, the cure of a loss that is not finite, and names of files, whose fingerprint counts.
_HARMLESS = re.compile(
    r'model_wrapper|\.init_cfg\.|\.pretrained$|\.clip_grad\.'
    r'|_dataloader\.dataset\..*(root|dir|file|path|data_prefix|check)\b'
)
_OF_ONE_START = re.compile('work_dir|load_from|resume|experiment_name|launcher|default_hooks.checkpoint')
_TRAINING_HOOK = re.compile('EMA|Switch|Teacher|PreciseBN|SimSiam|SwAV|DenseCL')  # others watch
_ELEMENTWISE = re.compile('(max_)?exp_(avg|avg_sq|inf)|momentum_buffer')  # as large as the parameter


def read_first(hook: Hook, runner: Any) -> None:
    """Let a hook read a loaded checkpoint before all others: ``EMAHook`` would fail on what is refused."""
    first = Hook()
    first.after_load_checkpoint, hook.after_load_checkpoint = hook.after_load_checkpoint, first.after_load_checkpoint
    runner._hooks = [first, *runner._hooks]  # not changed in place, since the runner is going through it


def check_resume(runner: Any, checkpoint: dict[str, Any], hook: Any) -> None:
    """Compare a checkpoint with the run that is to continue from it, as the options of the checkpoint hook demand.

    With ``new_schedule`` the checkpoint is changed unless it has that schedule, see
    :func:`~randsac_mm.engine.schedule.use_new_schedule`.

    Raises:
        ValueError: If something is missing or does not fit, or changes the model or the numbers unasked.
    """
    path, warn = Path(str(runner._load_from or 'the checkpoint')), runner.logger.warning

    def refuse(what: str, changes: list[str], allowed: bool) -> None:
        text = f'{what}: {name_some(changes)}'
        if changes and not allowed:
            advice = 'Restore that, or set default_hooks.checkpoint.allow_changes=True'
            raise ValueError(f'cannot resume, {text}. {advice}')
        if changes:
            warn(f'The run continues although {text}')

    check_parts(checkpoint, path)
    meta, saved = checkpoint['meta'], checkpoint.get('param_schedulers')
    if files := meta.get('train_files'):
        change = on_first_rank(lambda: describe_change(hook.train_files(runner), files, path.parent))
        refuse('the training files have changed', [change] if change else [], hook.allow_changes)
    text = meta.get('config_text', meta.get('cfg'))  # the former is our reader's name for it
    configs = (stored_config({'meta': {'cfg': config}}, KNOWN_KEYS) for config in (runner.cfg.pretty_text, text))
    serious, others = compare_configs(*configs, hook.keep_schedule or hook.new_schedule)
    of_schedule = [line for line in serious if _SCHEDULE.match(line)]
    allowed = hook.allow_changes or 'numerics' not in meta  # an earlier version may have had other defaults
    refuse("the config is not the checkpoint's", [line for line in serious if line not in of_schedule], allowed)
    check_tensors(runner, checkpoint)
    limits = {'max_epochs': runner.max_epochs, 'max_iters': runner.max_iters}
    info = checkpoint['message_hub'].get('runtime_info', {})
    add_warmup(runner, info)
    changed = any(map(_SCHEDULE.match, others))
    try:
        if runner.param_schedulers and not (saved and isinstance(saved, (list, dict))):
            raise ValueError(f'{path} has no param_schedulers: set default_hooks.checkpoint.new_schedule=True')
        check_schedules(runner.param_schedulers, saved, limits, info, hook.keep_schedule)
        if not hook.keep_schedule:
            check_optimizer(runner.optim_wrapper, checkpoint['optimizer'])
    except ValueError:
        if not hook.new_schedule:
            raise
        changed = True
    if hook.new_schedule and changed:
        use_new_schedule(runner, checkpoint)
    refuse("the config is not the checkpoint's", of_schedule, allowed)
    if others:
        runner.logger.info(f'Changes of the config that do not change the numbers: {name_some(others)}')
    numerics = meta.get('numerics') or {}
    for compiling in (other for other in runner.hooks if isinstance(other, CompileHook) and other.enabled is None):
        compiling.enabled = numerics.get('compiled')  # as its first steps, although it may pay no more
    if rounding := _compare(describe_numerics(runner), numerics):
        warn(f'The run continues with other rounding: {", ".join(rounding)}')


def check_tensors(runner: Any, checkpoint: Mapping[str, Any]) -> None:
    """Compare keys and shapes of weights, with the model's own loading hooks, and of the optimiser's state.

    Shards are not compared.

    Raises:
        ValueError: If they differ; it lists the differences, and the model is unchanged.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if any(hasattr(p, '_local_tensor') or type(p).__name__ == 'FlatParameter' for p in model.parameters()):
        return
    state = OrderedDict((re.sub(r'^module\.', '', key), value) for key, value in checkpoint['state_dict'].items())
    vars(state)['_metadata'] = getattr(checkpoint['state_dict'], '_metadata', None)
    names = {id(p): name for name, p in model.named_parameters()}
    faults = [*load_or_restore(model, state), [*_odd_states(runner.optim_wrapper, checkpoint['optimizer'], names)]]
    titles = ('missing', 'unexpected', 'other shapes', "optimiser's state")
    lines = [f'{title}: {name_some(collapse(keys))}' for title, keys in zip(titles, faults, strict=True) if keys]
    if lines:
        raise ValueError(
            f'cannot resume, the checkpoint does not fit the config: {"; ".join(lines)}\nRestore model and '
            'optim_wrapper, or start anew from these weights (load_from, no --resume)'
        )


def _odd_states(wrapper: Any, saved: Any, names: Mapping[int, str]) -> Iterator[str]:
    """Yield names and faults of parameters whose state is incomplete or of another shape."""
    if isinstance(wrapper, OptimWrapperDict):
        for name, part in wrapper.items():
            yield from _odd_states(part, saved.get(name), names)
        return
    groups, states = ((saved or {}).get(key) for key in ('param_groups', 'state'))
    if not isinstance(groups, list) or not isinstance(states, dict):
        yield 'missing'
        return
    expected = sorted({key for state in states.values() for key in state if _ELEMENTWISE.fullmatch(key)})
    for index, (built, group) in enumerate(zip(wrapper.param_groups, groups, strict=False)):
        if len(built['params']) != len(group['params']):
            yield f'param_groups.{index} has {len(group["params"])} parameters, not {len(built["params"])}'
            continue
        for parameter, number in zip(built['params'], group['params'], strict=True):
            for key in expected if number in states else ():
                value = states[number].get(key, 'missing')
                shape = tuple(value.shape) if isinstance(value, Tensor) else value
                if value is not None and shape != tuple(parameter.shape):
                    yield f'{names.get(id(parameter))}.{key} {shape}, not {tuple(parameter.shape)}'


def compare_configs(now: dict, before: dict, new_schedule: bool = False) -> tuple[list[str], list[str]]:
    """Return differences that change the model or the numbers, and others; those of a new schedule are others."""
    serious, others = [], []
    for line in _compare(dict(_flatten(now)), dict(_flatten(before))) if now and before else ():
        if not _OF_ONE_START.match(line):
            key = line.partition(' ')[0]
            is_serious = _SERIOUS.match(key) and not _HARMLESS.search(f'{key}.')
            (serious if is_serious and not (new_schedule and _SCHEDULE.match(key)) else others).append(line)
    return serious, others


def _compare(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    keys = sorted(now.keys() | before.keys()) if before else ()
    return [f'{k} is {now.get(k)}, not {before.get(k)}' for k in keys if now.get(k) != before.get(k)]


def _flatten(node: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and plain values; tuples are lists, and synchronised batch norm is batch norm."""
    if path == 'custom_hooks' and isinstance(node, (list, tuple)):
        node = {
            kind: [h for h in node if bool(_TRAINING_HOOK.search(str(h))) == (kind == 'train')]
            for kind in ('train', 'watch')
        }
    if isinstance(node, (dict, list, tuple)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _flatten(value, f'{path}.{key}' if path else str(key))
    else:
        yield path, 'BN' if node in ('SyncBN', 'MMSyncBN') else node


def describe_numerics(runner: Any) -> dict[str, Any]:
    """Return what decides how a run rounds: versions, kernels, processes, threads; plain values."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    device, wrapper = next(model.parameters()).device, runner.optim_wrapper
    mixed = uses_mixed_precision(wrapper, device)
    dtype = torch.bfloat16 if mixed else torch.float32
    return {
        'torch': str(torch.__version__),
        'device': device.type,
        'attention': choose_backend(getattr(model, 'attention', 'auto'), device, dtype),
        'precision': type(wrapper).__name__ if mixed else 'OptimWrapper',
        'compiled': any(isinstance(hook, CompileHook) and hook.enabled for hook in runner.hooks),
        'mkldnn': bool(getattr(torch.backends.mkldnn, 'enabled', True)),  # torch 2.5
        'threads': torch.get_num_threads(),
        'processes': get_world_size(),
    }
