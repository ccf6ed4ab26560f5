"""Schedules: another number of epochs, and a resumed run whose config no longer agrees with its checkpoint."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.optim import _ParamScheduler

# What a config decides; the other entries of a scheduler's state are progress.
_SETTINGS = ('begin', 'end', 'by_epoch', 'T_max', 'total_iters', 'total_steps', 'step_size', 'milestones', 'gamma')
_UNLIMITED = int(1e9)  # mmengine's default `end`


def check_schedules(schedulers: Any, saved: Any, limits: Mapping[str, int], saved_limits: Mapping[str, Any]) -> None:
    """Compare the schedules of the config with those of the checkpoint, which mmengine would silently keep.

    Args:
        schedulers: ``runner.param_schedulers``: built schedulers, in a list, or in a dict of lists.
        saved: ``checkpoint['param_schedulers']``: their saved states in the same arrangement.
        limits: ``max_epochs`` and ``max_iters`` of the config.
        saved_limits: The same of the run that wrote the checkpoint; may lack them.

    Raises:
        ValueError: If a setting differs, or the length of the training does while a schedule ends with it.
    """
    built = [s for s in _flat(schedulers) if isinstance(s, _ParamScheduler)]
    states = _flat(saved)
    changes = []
    if built and states and len(built) != len(states):
        changes.append(f'param_scheduler has {len(built)} entries, not {len(states)}')
    for index, (new, old) in enumerate(zip(built, states, strict=False)):
        for key in _SETTINGS:
            ours = getattr(new, key, None)
            if key in old and ours is not None and ours != old[key]:
                changes.append(f'param_scheduler[{index}].{key} ({type(new).__name__}) is {ours}, not {old[key]}')
        limit = 'max_epochs' if new.by_epoch else 'max_iters'
        before, now = saved_limits.get(limit), limits[limit]
        if before and before != now and before <= old.get('end', _UNLIMITED) < _UNLIMITED and not changes:
            changes.append(f'{limit} is {now}, not {before}, where the schedule ends')
    if changes:
        raise ValueError(
            f'cannot resume, the config differs from the checkpoint: {"; ".join(changes)}. Restore the old values, use '
            'default_hooks.checkpoint.keep_schedule=True, or start anew from these weights (load_from, no --resume)'
        )


def set_epochs(
    cfg: Config, epochs: int, *, steps_per_epoch: int | None = None, warmup_share: float | None = None
) -> None:
    """Change the number of epochs of a run with cosine decay by epoch, with or without a linear warm-up before it.

    The warm-up keeps its share of a shorter run, at least one epoch, and its length in a longer one.

    Args:
        cfg: The config; it is changed.
        epochs: The number of epochs, at least 2 if there is a warm-up, else at least 1.
        steps_per_epoch: Count the schedule in steps, of which an epoch has that many. Then one epoch is enough, and a
            warm-up of less than 2 steps is omitted (``LinearLR`` would keep its first value for ever).
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
        if len(entries) < 2 or warmup < 2:
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
