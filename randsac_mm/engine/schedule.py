"""Schedules: another number of epochs, a warm-up of one step, a config that no longer agrees with its checkpoint."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.optim import (
    ConstantParamScheduler,
    CosineAnnealingParamScheduler,
    LinearLR,
    LinearParamScheduler,
    MultiStepParamScheduler,
    OptimWrapperDict,
    PolyParamScheduler,
    _ParamScheduler,
)

# What a config decides; the other entries of a scheduler's state are progress.
_SETTINGS = ('begin', 'end', 'by_epoch', 'T_max', 'total_iters', 'total_steps', 'step_size', 'milestones', 'gamma')
_UNLIMITED = int(1e9)  # mmengine's default `end`
_WARMUP = 'warmup'  # in the message hub, and thereby in checkpoints
_WARMUP_SHARE = 20  # one step of so many that remain
_SPEED_ONLY = ('params', 'foreach', 'fused', 'capturable', 'differentiable')  # change no result
_ADVICE = (
    'Restore the old values, or set default_hooks.checkpoint.keep_schedule=True to keep those of the checkpoint, or '
    "new_schedule=True there to go on with the config's, or start anew from these weights (load_from, no --resume)"
)


def drop_fixed_schedules(runner: Any) -> None:
    """Drop schedules of one step when the runner builds them: they keep their first factor instead of ending.

    mmengine's ``LinearLR(begin=0, end=1)`` never leaves its first value, nor does one that
    ``convert_to_iter_based`` makes of an epoch of one batch. A warm-up that ends after the run is named in the log.
    """
    builder = getattr(runner, 'strategy', runner)
    build = builder._build_param_scheduler

    def build_moving(configs: Any, wrapper: Any, *options: dict) -> list:
        configs = list(configs) if isinstance(configs, Sequence) else [configs]
        before = [dict(group) for group in wrapper.param_groups]
        built = build(configs, wrapper, *map(dict, options))
        one_step = [_is_linear(s, ConstantParamScheduler) and s.total_iters < 1 for s in built]
        if any(one_step):
            runner.logger.warning('param_scheduler: dropped a schedule of one step, which would never end')
            for group, values in zip(wrapper.param_groups, before, strict=True):
                group.update(values)
            moving = [config for config, fixed in zip(configs, one_step, strict=True) if not fixed]
            built = build(moving, wrapper, *map(dict, options))
        for s in built:
            length = runner.max_epochs if s.by_epoch else runner.max_iters
            if _is_linear(s) and s.begin < length < s.end < _UNLIMITED and s.start_factor < s.end_factor:
                unit = 'epoch' if s.by_epoch else 'step'
                runner.logger.warning(f'param_scheduler: the warm-up ends at {unit} {s.end}, the run at {length}')
        return built

    builder._build_param_scheduler = build_moving


def _is_linear(scheduler: Any, *others: type) -> bool:
    return isinstance(scheduler, (LinearParamScheduler, *others))


def check_optimizer(wrapper: Any, saved: Mapping[str, Any]) -> None:
    """Compare the settings of the optimiser with those of the checkpoint, which mmengine would silently keep.

    Args:
        wrapper: ``runner.optim_wrapper``.
        saved: ``checkpoint['optimizer']``.

    Raises:
        ValueError: If the number of parameter groups differs, or a number in one of them: lr, weight decay, betas, ...
    """
    changes: dict[str, str] = {}
    for new, old in _groups(wrapper, saved):
        for key in new:
            skipped = key in _SPEED_ONLY or key.startswith('initial_') or (key == 'betas' and 'momentum' in old)
            # Skip weights have had no decay since a later version, and older runs go on with theirs.
            skipped |= key in ('weight_decay', 'decay_mult') and 'decay_mult' in new and 'decay_mult' not in old
            now, before = (group.get(f'initial_{key}', group.get(key)) for group in (new, old))
            if not skipped and _differ(now, before):  # a schedule of Adam's momentum changes betas
                changes.setdefault(key, f'{key} is {now}, not {before}')
    if changes:
        found = '; '.join(changes.values())
        raise ValueError(f"cannot resume, the config's optimiser differs from the checkpoint's: {found}. {_ADVICE}")


def _differ(now: Any, before: Any) -> bool:
    """Compare numbers, or sequences of them; what the checkpoint lacks is a difference unless it is a switch."""
    kinds = [np.asarray(value).dtype.kind for value in (now, before)]
    if kinds[0] not in 'bif' or kinds == ['b', 'O']:
        return False
    return kinds[1] not in 'bif' or np.shape(now) != np.shape(before) or not np.allclose(now, before, rtol=1e-6, atol=0)


def _groups(wrapper: Any, saved: Mapping[str, Any]) -> Iterator[tuple[dict, dict]]:
    """Yield the built and the saved settings of each parameter group of one optimiser, or of several."""
    if isinstance(wrapper, OptimWrapperDict):
        for name, part in wrapper.items():
            yield from _groups(part, saved[name])
        return
    base = saved.get('base_param_settings')
    groups = [*saved['param_groups'], *([base] if base else [])]
    if len(wrapper.param_groups) != len(groups):
        raise ValueError(
            f'cannot resume, the optimiser has {len(wrapper.param_groups)} parameter groups, the checkpoint '
            f'{len(groups)}: restore model and optim_wrapper, or start anew from these weights (load_from, no --resume)'
        )
    yield from zip(wrapper.param_groups, groups, strict=True)


def use_new_schedule(runner: Any, checkpoint: dict) -> None:
    """Replace the settings of optimiser and schedules in a loaded checkpoint by the config's, at the same step.

    The schedules of the config are run from the start to that step, so that the rest of the training gets the values of
    a run that had them from the start. If that raises the learning rate of a run with one optimiser, as for a longer
    run, it warms up from the current one, during a twentieth of the remaining steps. The optimiser's averages stay.

    Raises:
        ValueError: If a schedule depends on results of validation.
    """
    hub = checkpoint['message_hub']
    if hub.get('runtime_info', {}).pop(_WARMUP, None) and isinstance(runner.param_schedulers, list):
        runner.param_schedulers.pop()
    schedulers = _flat(runner.param_schedulers)
    if any(getattr(s, 'need_val_args', False) for s in schedulers):
        raise ValueError('new_schedule=True: a schedule that depends on validation cannot be run from the start')
    for s in schedulers:
        s.optimizer._global_step = 0  # as after a step of the optimiser, else each schedule would warn
    meta, has_epochs = checkpoint['meta'], not hasattr(runner.train_loop, 'dataloader_iterator')
    epochs, steps = (meta['epoch'], len(runner.train_dataloader)) if has_epochs else (1, meta['iter'])
    by_step, by_epoch = ([s for s in schedulers if s.by_epoch == kind] for kind in (False, True))
    for _ in range(epochs):
        for _ in range(steps):
            for s in by_step:
                s.step()
        for s in by_epoch if has_epochs else ():
            s.step()
    if isinstance(runner.param_schedulers, list):
        before, now = (
            groups[0]['lr'] for groups in (checkpoint['optimizer']['param_groups'], runner.optim_wrapper.param_groups)
        )
        length = (runner.max_iters - meta['iter']) // _WARMUP_SHARE
        if before < now and length > 1:
            runner.logger.info(f'The learning rate warms up from {before:.3g} to {now:.3g} in {length} steps')
            hub['resumed_keys'][_WARMUP] = True
            hub['runtime_info'][_WARMUP] = [meta['iter'], meta['iter'] + length, max(before / now, 1e-4)]
            add_warmup(runner, hub['runtime_info'])
            warmup = runner.param_schedulers[-1]
            warmup._global_step = meta['iter'] - 1
            warmup.step()
            schedulers.append(warmup)
    for new, old in _groups(runner.optim_wrapper, checkpoint['optimizer']):
        parameters = old['params']
        old.clear()
        old.update(new, params=parameters)
    if isinstance(runner.param_schedulers, dict):
        states = {name: [s.state_dict() for s in group] for name, group in runner.param_schedulers.items()}
    else:
        states = [s.state_dict() for s in schedulers]
    checkpoint['param_schedulers'] = states


def add_warmup(runner: Any, info: Mapping[str, Any]) -> None:
    """Add the warm-up that a checkpoint's run had, see :func:`use_new_schedule`; ``info`` is of its hub."""
    if _WARMUP in info and isinstance(runner.param_schedulers, list):
        begin, end, factor = info[_WARMUP]
        options = dict(start_factor=factor, begin=begin, end=end, by_epoch=False)
        runner.param_schedulers.append(LinearLR(runner.optim_wrapper, **options))


def check_schedules(
    schedulers: Any, saved: Any, limits: Mapping[str, int], saved_limits: Mapping[str, Any], keep: bool = False
) -> None:
    """Compare the schedules of the config with those of the checkpoint, which mmengine would silently keep.

    Args:
        schedulers: ``runner.param_schedulers``: built schedulers, in a list, or in a dict of lists.
        saved: ``checkpoint['param_schedulers']``: their saved states in the same arrangement.
        limits: ``max_epochs`` and ``max_iters`` of the config.
        saved_limits: The same of the run that wrote the checkpoint; may lack them.
        keep: Compare only how many there are: without that the saved ones cannot be kept.

    Raises:
        ValueError: If the number of schedules differs, or a setting, or the length of the training does while a
            schedule ends with it.
    """
    built = [s for s in _flat(schedulers) if isinstance(s, _ParamScheduler)]
    states = _flat(saved)
    changes = []
    if built and states and len(built) != len(states):
        changes.append(f'param_scheduler has {len(built)} entries, not {len(states)}')
    for index, (new, old) in enumerate(zip(built, () if keep else states, strict=False)):
        for key in _SETTINGS:
            ours = getattr(new, key, None)
            if key in old and ours is not None and ours != old[key]:
                changes.append(f'param_scheduler[{index}].{key} ({type(new).__name__}) is {ours}, not {old[key]}')
        limit = 'max_epochs' if new.by_epoch else 'max_iters'
        before, now = saved_limits.get(limit), limits[limit]
        if before and before != now and before <= old.get('end', _UNLIMITED) < _UNLIMITED and not changes:
            changes.append(f'{limit} is {now}, not {before}, where the schedule ends')
    if changes:
        epochs, before = limits['max_epochs'], saved_limits.get('max_epochs')
        longer = f'To train until epoch {epochs}: --extend-to {epochs}. ' if before and before != epochs else ''
        text = f'cannot resume, the config differs from the checkpoint: {"; ".join(changes)}'
        raise ValueError(f'{text}\n{longer}{_ADVICE}')


def move_end(schedulers: Any, before: int, now: int) -> None:
    """Let built schedules by step that end with a run of ``before`` steps end with one of ``now`` steps.

    Cosine and polynomial decay continue from the current value to their last. Milestones that are to come keep their
    share of the remaining steps. Of others only the end moves; a warm-up before the end stays.
    """
    for s in _flat(schedulers):
        done = max(s.last_step, 0)
        if s.by_epoch or s.end not in (before, _UNLIMITED) or now <= s.begin + done:
            continue
        s.end = now if s.end == before else s.end
        if isinstance(s, CosineAnnealingParamScheduler) and s.T_max == before - s.begin:
            s.T_max = now - s.begin
        elif isinstance(s, PolyParamScheduler):
            s.total_iters = now - s.begin - 1
        elif isinstance(s, MultiStepParamScheduler):
            share = (now - s.begin - done) / max(1, before - s.begin - done)
            moved = {m: m if m <= done else done + max(1, round((m - done) * share)) for m in s.milestones}
            s.milestones = Counter(moved[m] for m in s.milestones.elements())


def set_epochs(
    cfg: Config, epochs: int, *, steps_per_epoch: int | None = None, warmup_share: float | None = None
) -> None:
    """Change the number of epochs of a run with cosine decay by epoch, with or without a linear warm-up before it.

    The warm-up keeps its share of a shorter run, at least one epoch, and its length in a longer one.

    Args:
        cfg: The config; it is changed.
        epochs: The number of epochs, at least 2 if there is a warm-up, else at least 1.
        steps_per_epoch: Count the schedule in steps, of which an epoch has that many. Then one epoch is enough, and a
            warm-up of less than one step is omitted; see :func:`drop_fixed_schedules` for one of a single step.
        warmup_share: Share of the warm-up in a run with ``steps_per_epoch``; None: as in the config.

    Raises:
        ValueError: If there are too few epochs for a warm-up and a decay, or the schedule has another form.
    """
    loop = cfg.get('train_cfg') or {}
    before = loop.get('max_epochs')
    if before is None:
        raise ValueError(
            f'--epochs {epochs}: {dict(loop)} counts no epochs; use --cfg-options for train_cfg and param_scheduler'
        )
    entries = cfg.get('param_scheduler') or []
    entries = [entries] if isinstance(entries, dict) else list(entries)
    _check_form(entries, before, epochs)
    warm = entries[0]['end'] if len(entries) == 2 else 0
    least = 2 if warm and steps_per_epoch is None else 1
    if epochs < least:
        raise ValueError(f'--epochs {epochs} is too few for this schedule: use {least} or more')

    if steps_per_epoch is None:
        end, warmup = epochs, min(warm, max(1, round(warm * epochs / before)))
    else:
        end = epochs * steps_per_epoch
        warmup = round(end * (warm / before if warmup_share is None else warmup_share))
        if len(entries) < 2 or not warmup:
            entries, warmup = entries[-1:], 0
        cfg.param_scheduler = entries
        for entry in entries:
            entry.update(by_epoch=False)
            entry.pop('convert_to_iter_based', None)
    if len(entries) == 2:
        entries[0]['end'] = warmup
    if entries:
        entries[-1].update(begin=warmup, end=end, T_max=end - warmup)
    loop['max_epochs'] = epochs
    made_from = {'max_epochs': epochs, 'warmup_epochs': warmup / steps_per_epoch if steps_per_epoch else warmup}
    cfg.update({name: value for name, value in made_from.items() if name in cfg})


def _check_form(entries: list[dict], last: int, epochs: int) -> None:
    """Raise unless the entries are none, a cosine decay until epoch ``last``, or a linear warm-up and that decay."""
    warm = [('LinearLR', True, 0, entries[0].get('end'))] if len(entries) == 2 else []
    begin = warm[0][-1] if warm else 0
    found = [(e.get('type'), e.get('by_epoch', True), e.get('begin', 0), e.get('end')) for e in entries]
    fits = found == [*warm, ('CosineAnnealingLR', True, begin, last)] and entries[-1].get('T_max') == last - begin
    if entries and not fits:
        forms = [f'{kind} ({"epoch" if by_epoch else "step"} {start} to {end})' for kind, by_epoch, start, end in found]
        raise ValueError(
            f'--epochs {epochs}: only CosineAnnealingLR until epoch {last}, with or without LinearLR from epoch 0, '
            f'can be changed, and param_scheduler is {", ".join(forms)}; use --cfg-options'
        )


def _flat(schedulers: Any) -> list:
    if isinstance(schedulers, dict):
        return [s for group in schedulers.values() for s in group]
    return list(schedulers or ())
